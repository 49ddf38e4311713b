"""One of several processes that meet and leave, for test_hosts.py."""

import json
import sys
import time

from pivotrl_jax.parallel import hosts

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    hosts.PERIOD = 2e-4
    hosts.start(given["coordinator"], given["sizes"][given["process"]], given["process"])
    time.sleep(0.2)
    sys.exit(143)

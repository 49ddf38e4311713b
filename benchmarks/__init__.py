"""Side-by-side measurements that print ratios; `README.md` says what each one shows."""

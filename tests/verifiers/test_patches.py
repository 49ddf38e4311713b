"""Reading patches, applying edits and what they change."""

from pivotrl_jax.verifiers.patches import Edit, apply, blocks, parse_patch


def test_patches_are_read() -> None:
    text = "\n".join([
        "diff --git a/x b/x", "--- a/x", "+++ b/x", "@@ -3,2 +3,2 @@ f", " keep", "-old", "+new",
        "\\ No newline at end of file", "@@ -9 +9 @@", "-p", "+q",
        "--- /dev/null", "+++ b/y", "@@ -0,0 +1 @@", "+hello",
        "--- a/z", "+++ /dev/null", "@@ -1 +0,0 @@", "-bye",
    ])  # fmt: skip
    assert parse_patch(text)[:4] == (
        Edit("replace", "x", "keep\nold", "keep\nnew", 3),
        Edit("replace", "x", "p", "q", 9),
        Edit("write", "y", new="hello"),
        Edit("delete", "z"),
    )
    codex = "*** Begin Patch\n*** Add File: n\n+a\n+b\n*** Delete File: d\n*** Update File: u\n" \
            "*** Move to: v\n@@\n-x\n+y\n*** End Patch"  # fmt: skip
    assert parse_patch(codex) == (
        Edit("write", "n", new="a\nb"),
        Edit("delete", "d"),
        Edit("move", "u", new="v"),
        Edit("replace", "u", "x", "y"),
    )
    assert parse_patch("no patch at all\n+ x") == ()


def test_a_hunk_goes_where_its_line_number_says() -> None:
    assert apply("a\nb\na\nb", 1, Edit("replace", "f", "a", "x", line=3)) == "a\nb\nx\nb"
    assert apply("a\nb\na\nb", 1, Edit("replace", "f", "a", "x")) is None
    assert apply("a\nb\na", 1, Edit("replace", "f", "a", "x", every=True)) == "x\nb\nx"


def test_blocks_leave_out_what_stays() -> None:
    assert blocks("a\nb\nc\nd\ne", "a\nx\nc\ne") == ((("b",), ("x",)), (("d",), ()))
    assert blocks("a \nb", "a\nb\n") == ()
    assert blocks("", "a") == (((), ("a",)),)

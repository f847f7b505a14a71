import pytest

from training.tables import Table

TABLE = Table("A < B", ("name", "value"), (("a|b", "1"), ("<c>", "2")), "Read with care.")


def test_markdown_escapes_bars():
    assert TABLE.markdown() == (
        "### A < B\n\n| name | value |\n| --- | --- |\n| a\\|b | 1 |\n| <c> | 2 |\n\nRead with care.\n"
    )


def test_html_escapes_markup():
    page = TABLE.html()
    assert "<h3>A &lt; B</h3>" in page
    assert "<td>&lt;c&gt;</td><td>2</td>" in page
    assert page.count("<tr>") == 3


def test_the_terminal_shows_every_cell(capsys):
    TABLE.print()
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("A < B", "a|b", "<c>", "Read with care."))


def test_a_short_row_is_rejected():
    with pytest.raises(ValueError, match=r"table 'T' .* 1 cells for 2 columns"):
        Table("T", ("a", "b"), (("1",),))

from commands.text_table import align


def test_columns_are_aligned() -> None:
    assert align([["", "n"], ["abc", "10"]]) == "      n\nabc  10"

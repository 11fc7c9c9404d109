from tools.stale import differs


def test_what_was_not_pulled_is_not_of_another_run():
    assert not differs([{"changed deps": {"data/predictions": "deleted"}}])
    assert differs([{"changed deps": {"data/predictions": "deleted", "metrics.json": "modified"}}])
    assert differs(["changed command"])
    assert not differs([])

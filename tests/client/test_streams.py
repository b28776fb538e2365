from client.streams import Message, read_messages


def test_a_message_ends_at_an_empty_line_and_inherits_the_id():
    lines = ["id: 1", "event: job.queued", 'data: {"seq":', "data: 1}", "", ": ping", "", "data:x", ""]

    assert list(read_messages(lines)) == [
        Message(id="1", event="job.queued", data='{"seq":\n1}'),
        Message(id="1", event="message", data="x"),
    ]


def test_an_incomplete_message_is_dropped():
    assert list(read_messages(["id: 1", "data: half"])) == []

from potstill.streams import Message, MessageParser


def parse(lines):
    parser = MessageParser()
    return [message for line in lines if (message := parser.feed(line)) is not None]


def test_a_message_ends_at_an_empty_line_and_inherits_the_id():
    lines = ["id: 1", "event: job.queued", 'data: {"seq":', "data: 1}", "", ": ping", "", "data:x", ""]

    assert parse(lines) == [
        Message(id="1", event="job.queued", data='{"seq":\n1}'),
        Message(id="1", event="message", data="x"),
    ]


def test_an_incomplete_message_is_dropped():
    assert parse(["id: 1", "data: half"]) == []

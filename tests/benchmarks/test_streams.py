"""The stream benchmark detects missed, repeated and reordered events."""

from benchmarks.streams import Client, Load, _evaluate


def errors(*seqs):
    clients = [Client(0, drops=False, seqs=list(one), delays=[0.1]) for one in seqs]
    result = _evaluate(clients, Load(cpu_percent=[1.0], memory_bytes=2**20))
    return result["missed"], result["repeated"], result["disordered"]


def test_each_client_must_see_every_event_once_and_in_order():
    assert errors([1, 2, 3], [1, 2, 3]) == (0, 0, 0)
    assert errors([1, 2, 3], [1, 3]) == (1, 0, 0)
    assert errors([1, 2, 3], [1, 2, 2, 3]) == (0, 1, 0)
    assert errors([1, 2, 3], [1, 3, 2]) == (0, 0, 1)

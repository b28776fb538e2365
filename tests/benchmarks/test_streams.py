"""The benchmark of streams sees what goes wrong."""

from benchmarks.streams import Client, Load, _judge


def judged(*seqs):
    seen = [Client(0, drops=False, seqs=list(one), delays=[0.1]) for one in seqs]
    found = _judge(seen, Load(cpu_percent=[1.0], memory_bytes=2**20))
    return found["missed"], found["doubled"], found["disordered"]


def test_each_client_must_see_everything_once_and_in_order():
    assert judged([1, 2, 3], [1, 2, 3]) == (0, 0, 0)
    assert judged([1, 2, 3], [1, 3]) == (1, 0, 0)
    assert judged([1, 2, 3], [1, 2, 2, 3]) == (0, 1, 0)
    assert judged([1, 2, 3], [1, 3, 2]) == (0, 0, 1)

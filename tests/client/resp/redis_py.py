"""redis-py, unmodified, on the Redis door: what its users do, in RESP2 and in RESP3.

    redis_py.py commands PORT      everything, in both protocols
    redis_py.py count PORT NUMBER  counts to NUMBER through whatever happens; says `counting` when it has begun
"""

import sys
import threading

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

BIG_BYTES = 5 * 1024 * 1024


def client(port, protocol, **more):
    return redis.Redis(host="127.0.0.1", port=port, protocol=protocol, decode_responses=True, **more)


def refuses(error, act):
    try:
        act()
    except error as refusal:
        return str(refusal)
    raise AssertionError("it was not refused")


def values(one, key):
    one.delete(key("hash"), key("list"))
    assert one.hset(key("hash"), mapping={"a": "1", "b": "two"}) == 2
    assert one.hgetall(key("hash")) == {"a": "1", "b": "two"}
    assert one.rpush(key("list"), "x", "y") == 2 and one.lrange(key("list"), 0, -1) == ["x", "y"]
    one.zadd(key("zset"), {"x": 1.5, "y": 2})
    assert [tuple(pair) for pair in one.zrange(key("zset"), 0, -1, withscores=True)] == [("x", 1.5), ("y", 2.0)]
    one.sadd(key("set"), "x", "y")
    assert one.smembers(key("set")) == {"x", "y"}
    assert one.set(key("text"), "v", ex=100) and 0 < one.ttl(key("text")) <= 100
    assert one.get(key("absent")) is None
    assert "WRONGTYPE" in refuses(redis.ResponseError, lambda: one.incr(key("list")))
    assert "PARALLAX" in refuses(redis.ResponseError, lambda: one.delete("parallax:outbox"))
    assert one.register_script("return {KEYS[1], ARGV[1]}")(keys=[key("text")], args=["a"]) == [key("text"), "a"]


def pipelines(one, other, key):
    one.delete(key("count"))
    piped = one.pipeline(transaction=False)
    for _ in range(500):
        piped.incr(key("count"))
    assert piped.execute() == list(range(1, 501))
    piped = one.pipeline(transaction=False)
    piped.set(key("text"), "v").lpush(key("text"), "x").get(key("text"))
    results = piped.execute(raise_on_error=False)
    assert results[0] is True and isinstance(results[1], redis.ResponseError) and results[2] == "v", results
    assert one.pipeline(transaction=True).incr(key("count")).get(key("count")).execute() == [501, "501"]
    with one.pipeline() as watching:
        watching.watch(key("count"))
        other.set(key("count"), "0")
        watching.multi()
        watching.incr(key("count"))
        refuses(redis.WatchError, watching.execute)
    assert other.get(key("count")) == "0"


def scans(one, key):
    for number in range(300):
        one.set(key(f"scanned-{number}"), "x")
    assert len(set(one.scan_iter(match=key("scanned-*"), count=50))) == 300
    assert [name for name in one.scan_iter(count=500) if name.startswith("parallax:")] == []


def big_values(one, key, prefix):
    big = "v" * BIG_BYTES
    for name in (key("big"), f"{prefix}:big"):
        assert one.set(name, big)
        assert one.get(name) == big
        assert one.getrange(name, BIG_BYTES - 2, -1) == "vv"


def messages(one, other, prefix):
    heard = []
    said = threading.Event()
    listener = one.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(**{f"{prefix}-news": lambda message: heard.append(message["data"])})
    listener.psubscribe(**{f"{prefix}-user:*": lambda message: (heard.append(message["channel"]), said.set())})
    while other.pubsub_numsub(f"{prefix}-news")[0][1] < 1 or other.pubsub_numpat() < 1:
        pass
    thread = listener.run_in_thread(sleep_time=0.01)
    other.publish(f"{prefix}-news", "hello")
    other.publish(f"{prefix}-user:1", "there")
    assert said.wait(30)
    thread.stop()
    thread.join()
    assert heard == ["hello", f"{prefix}-user:1"], heard


def blocks(one, other, prefix):
    taken = []
    waiting = threading.Thread(target=lambda: taken.append(one.blpop(f"{prefix}:queue", timeout=30)))
    waiting.start()
    other.rpush(f"{prefix}:queue", "item")
    waiting.join()
    assert tuple(taken[0]) == (f"{prefix}:queue", "item"), taken


def comes_back(one, key):
    one.connection_pool.disconnect()
    assert one.get(key("text")) == "v"
    one.connection_pool.reset()
    assert one.ping()


def commands(port):
    for protocol in (2, 3):
        prefix = f"session:py{protocol}"

        def key(name):
            return f"user:py{protocol}-{name}"

        one, other = client(port, protocol), client(port, protocol)
        values(one, key)
        pipelines(one, other, key)
        scans(one, key)
        big_values(one, key, prefix)
        messages(one, other, prefix)
        blocks(one, other, prefix)
        comes_back(one, key)
        print(f"RESP{protocol} ok")


def count(port, number):
    one = client(port, 3, retry=Retry(ConstantBackoff(0.05), 600))
    for turn in range(1, number + 1):
        assert one.incr("user:py-counted") == turn, "nothing counts twice"
        if turn == 50:
            print("counting", flush=True)
    print("counted")


if __name__ == "__main__":
    if sys.argv[1] == "commands":
        commands(int(sys.argv[2]))
    else:
        count(int(sys.argv[2]), int(sys.argv[3]))

"""What people write who need every hash of a Redis in PostgreSQL: SCAN, a pipeline of HGETALL and PTTL, COPY.

One process, one connection each, no versions, no marks: whatever is written meanwhile is lost or overwritten. It prints one
line of JSON: how many keys, and how many seconds they took.
"""

import json
import sys
import time

import psycopg
import redis

PAGE_KEYS = 1000

TABLE = """DROP TABLE IF EXISTS plain;
CREATE TABLE plain (key text PRIMARY KEY, doc jsonb, expires_at timestamptz)"""
COPY = "COPY plain (key, doc, expires_at) FROM STDIN"


def main(redis_port: int, postgres_url: str) -> None:
    source = redis.Redis(port=redis_port, decode_responses=True)
    with psycopg.connect(postgres_url, autocommit=True) as target:
        target.execute(TABLE)
        began, count, cursor = time.monotonic(), 0, 0
        while True:
            cursor, keys = source.scan(cursor, count=PAGE_KEYS, _type="hash")
            keys = [key for key in keys if not key.startswith("parallax:")]
            pipeline = source.pipeline(transaction=False)
            for key in keys:
                pipeline.hgetall(key)
                pipeline.pttl(key)
            answers = pipeline.execute()
            now = time.time()
            with target.cursor() as rows, rows.copy(COPY) as copy:
                for place, key in enumerate(keys):
                    left = answers[2 * place + 1]
                    expires = None
                    if left >= 0:
                        expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + left / 1000))
                    copy.write_row((key, json.dumps(answers[2 * place]), expires))
            count += len(keys)
            if cursor == 0:
                break
        print(json.dumps({"keys": count, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

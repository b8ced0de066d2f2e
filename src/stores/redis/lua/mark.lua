-- Marks every key of a batch (W1-W3). Stands first in the EXEC of the writes. Allowed to run under maxmemory, so that a
-- delete that frees memory can be marked.
-- KEYS: outbox, note, then the keys. ARGV: token; for each key: flags (g: gone bit, n: note presence and the older mark,
-- c: collection, s: stream), the number of companion fields, and the fields ('*' whole, 'h' header, 'e' + name).
mark(3, #KEYS, ARGV[1], 2)
return redis.status_reply('OK')

// The table of the Upstash client's commands: for each method of the client, what is called and what must come back.
//
// A step is [method, arguments, expected]: `expected` is a value, or a function that says whether the answer is right (for
// what Redis leaves open: the order of a set, a time). The same steps are made directly, in a pipeline, in a transaction
// and by auto-pipelining; so a step never needs the answer of an earlier one. `k` makes a key.

const sorted = (...members) => (answer) => same([...answer].sort(), members)
const around = (from, to) => (answer) => answer >= from && answer <= to
const oneOf = (...values) => (answer) => values.includes(answer)
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other)

/** 2033-05-18, in seconds: later than any run of these tests. */
const LATER = 2_000_000_000

const LIBRARY = "#!lua name=clienttests\nredis.register_function{function_name='clienttests_echo', callback=function(keys, args) return args[1] end, flags={'no-writes'}}"
const SCRIPT = 'return {KEYS[1], ARGV[1], {1, false}}'
const SCRIPT_SHA = '2b6babde077b47dc6d5762b52ea6ea85376dc949'

export const COMMANDS = {
  // Strings.
  append: (k) => [['append', [k('a'), 'x'], 1], ['append', [k('a'), 'yz'], 3], ['get', [k('a')], 'xyz']],
  bitcount: (k) => [['set', [k('a'), 'foobar'], 'OK'], ['bitcount', [k('a')], 26], ['bitcount', [k('a'), 1, 1], 6]],
  bitfield: (k) => [
    ['bitfield', [k('a')], [0, 1, 1], (field) => field.set('u4', 0, 1).get('u4', 0).overflow('SAT').incrby('u4', '#1', 1)],
  ],
  bitop: (k) => [
    ['mset', [{ [k('a')]: 'foof', [k('b')]: 'foof' }], 'OK'],
    ['bitop', ['and', k('c'), k('a'), k('b')], 4],
    ['bitop', ['not', k('d'), k('a')], 4],
    ['get', [k('c')], 'foof'],
  ],
  bitpos: (k) => [['setbit', [k('a'), 9, 1], 0], ['bitpos', [k('a'), 1], 9], ['bitpos', [k('a'), 0, 1, 1], 8]],
  decr: (k) => [['decr', [k('a')], -1]],
  decrby: (k) => [['decrby', [k('a'), 5], -5]],
  get: (k) => [
    ['set', [k('a'), { nested: [1, 'two', null] }], 'OK'],
    ['get', [k('a')], { nested: [1, 'two', null] }],
    ['get', [k('absent')], null],
    ['set', [k('b'), '007'], 'OK'],
    ['get', [k('b')], '007'],
    ['set', [k('c'), 'OK'], 'OK'],
    ['get', [k('c')], 'OK'],
    ['set', [k('d'), ''], 'OK'],
    ['get', [k('d')], ''],
    ['set', [k('e'), 'ünï 🎉\n"quoted"\\'], 'OK'],
    ['get', [k('e')], 'ünï 🎉\n"quoted"\\'],
    ['set', [k('f'), '12345678901234567890'], 'OK'],
    ['get', [k('f')], '12345678901234567890'],
  ],
  getbit: (k) => [['setbit', [k('a'), 7, 1], 0], ['getbit', [k('a'), 7], 1], ['getbit', [k('a'), 6], 0]],
  getdel: (k) => [['set', [k('a'), 1], 'OK'], ['getdel', [k('a')], 1], ['get', [k('a')], null]],
  getex: (k) => [
    ['set', [k('a'), 1], 'OK'],
    ['getex', [k('a'), { ex: 100 }], 1],
    ['ttl', [k('a')], around(90, 100)],
    ['getex', [k('a'), { pxat: LATER * 1000 }], 1],
    ['getex', [k('a'), { persist: true }], 1],
    ['ttl', [k('a')], -1],
  ],
  getrange: (k) => [['set', [k('a'), 'Hello World'], 'OK'], ['getrange', [k('a'), 0, 4], 'Hello'], ['getrange', [k('a'), -5, -1], 'World']],
  getset: (k) => [['set', [k('a'), 'x'], 'OK'], ['getset', [k('a'), 'y'], 'x'], ['get', [k('a')], 'y']],
  incr: (k) => [['incr', [k('a')], 1], ['incr', [k('a')], 2]],
  incrby: (k) => [['incrby', [k('a'), 9007199254740991], 9007199254740991]],
  incrbyfloat: (k) => [['incrbyfloat', [k('a'), 0.5], 0.5], ['incrbyfloat', [k('a'), 1.25], 1.75]],
  mget: (k) => [
    ['mset', [{ [k('a')]: 1, [k('b')]: { x: true } }], 'OK'],
    ['mget', [k('a'), k('absent'), k('b')], [1, null, { x: true }]],
    ['mget', [[k('b'), k('a')]], [{ x: true }, 1]],
  ],
  mset: (k) => [['mset', [{ [k('a')]: 'x', [k('b')]: [1, 2] }], 'OK'], ['get', [k('b')], [1, 2]]],
  msetnx: (k) => [['msetnx', [{ [k('a')]: 1 }], 1], ['msetnx', [{ [k('a')]: 2, [k('b')]: 2 }], 0], ['get', [k('b')], null]],
  psetex: (k) => [['psetex', [k('a'), 100_000, 'x'], 'OK'], ['pttl', [k('a')], around(90_000, 100_000)]],
  set: (k) => [
    ['set', [k('a'), 'x', { nx: true, ex: 100 }], 'OK'],
    ['set', [k('a'), 'y', { nx: true }], null],
    ['set', [k('a'), 'y', { xx: true, keepTtl: true }], 'OK'],
    ['set', [k('a'), 'z', { get: true }], 'y'],
    ['set', [k('b'), 'z', { xx: true }], null],
    ['set', [k('b'), 'z', { exat: LATER }], 'OK'],
    ['set', [k('b'), 'z', { px: 100_000 }], 'OK'],
    ['ttl', [k('b')], around(90, 100)],
  ],
  setbit: (k) => [['setbit', [k('a'), 1, 1], 0], ['setbit', [k('a'), 1, 0], 1]],
  setex: (k) => [['setex', [k('a'), 100, { x: 1 }], 'OK'], ['ttl', [k('a')], around(90, 100)]],
  setnx: (k) => [['setnx', [k('a'), 'x'], 1], ['setnx', [k('a'), 'y'], 0]],
  setrange: (k) => [['set', [k('a'), 'Hello World'], 'OK'], ['setrange', [k('a'), 6, 'Redis'], 11], ['get', [k('a')], 'Hello Redis']],
  strlen: (k) => [['set', [k('a'), 'ü'], 'OK'], ['strlen', [k('a')], 2], ['strlen', [k('absent')], 0]],

  // Keys.
  copy: (k) => [['set', [k('a'), 'x'], 'OK'], ['copy', [k('a'), k('b')], 'COPIED'], ['copy', [k('a'), k('b')], 'NOT_COPIED'], ['copy', [k('a'), k('b'), { replace: true }], 'COPIED']],
  del: (k) => [['set', [k('a'), 'x'], 'OK'], ['del', [k('a'), k('b')], 1], ['exists', [k('a')], 0]],
  exists: (k) => [['set', [k('a'), 'x'], 'OK'], ['exists', [k('a'), k('b'), k('a')], 2]],
  expire: (k) => [['set', [k('a'), 'x'], 'OK'], ['expire', [k('a'), 100], 1], ['expire', [k('a'), 50, 'GT'], 0], ['expire', [k('b'), 50], 0], ['ttl', [k('a')], around(90, 100)]],
  expireat: (k) => [['set', [k('a'), 'x'], 'OK'], ['expireat', [k('a'), LATER], 1], ['ttl', [k('a')], around(1, LATER)]],
  keys: (k) => [['set', [k('a'), 'x'], 'OK'], ['set', [k('b'), 'x'], 'OK'], ['keys', [k('*')], sorted(k('a'), k('b'))], ['keys', ['parallax:*'], []]],
  persist: (k) => [['set', [k('a'), 'x', { ex: 100 }], 'OK'], ['persist', [k('a')], 1], ['persist', [k('a')], 0], ['ttl', [k('a')], -1]],
  pexpire: (k) => [['set', [k('a'), 'x'], 'OK'], ['pexpire', [k('a'), 100_000], 1], ['pttl', [k('a')], around(90_000, 100_000)]],
  pexpireat: (k) => [['set', [k('a'), 'x'], 'OK'], ['pexpireat', [k('a'), LATER * 1000], 1]],
  pttl: (k) => [['pttl', [k('absent')], -2], ['set', [k('a'), 'x'], 'OK'], ['pttl', [k('a')], -1]],
  randomkey: (k) => [['set', [k('a'), 'x'], 'OK'], ['randomkey', [], (key) => typeof key === 'string' && !key.startsWith('parallax:')]],
  rename: (k) => [['set', [k('a'), 'x'], 'OK'], ['rename', [k('a'), k('b')], 'OK'], ['get', [k('b')], 'x'], ['exists', [k('a')], 0]],
  renamenx: (k) => [['set', [k('a'), 'x'], 'OK'], ['set', [k('b'), 'y'], 'OK'], ['renamenx', [k('a'), k('b')], 0], ['renamenx', [k('a'), k('c')], 1]],
  scan: (k) => [
    ['mset', [{ [k('a')]: 1, [k('b')]: 2 }], 'OK'],
    ['scan', [0, { match: k('*'), count: 100_000 }], ([cursor, keys]) => cursor === '0' && same([...keys].sort(), [k('a'), k('b')])],
    ['scan', ['0', { match: k('*'), count: 100_000, type: 'hash' }], ['0', []]],
    ['scan', [0, { match: 'parallax:*', count: 100_000 }], ['0', []]],
  ],
  touch: (k) => [['set', [k('a'), 'x'], 'OK'], ['touch', [k('a'), k('b')], 1]],
  ttl: (k) => [['ttl', [k('absent')], -2], ['set', [k('a'), 'x'], 'OK'], ['ttl', [k('a')], -1]],
  type: (k) => [['type', [k('absent')], 'none'], ['lpush', [k('a'), 'x'], 1], ['type', [k('a')], 'list']],
  unlink: (k) => [['set', [k('a'), 'x'], 'OK'], ['unlink', [k('a'), k('b')], 1], ['exists', [k('a')], 0]],

  // Hashes.
  hdel: (k) => [['hset', [k('a'), { x: 1, y: 2 }], 2], ['hdel', [k('a'), 'x', 'z'], 1], ['hkeys', [k('a')], ['y']]],
  hexists: (k) => [['hset', [k('a'), { x: 1 }], 1], ['hexists', [k('a'), 'x'], 1], ['hexists', [k('a'), 'y'], 0]],
  hget: (k) => [['hset', [k('a'), { x: { deep: [1] } }], 1], ['hget', [k('a'), 'x'], { deep: [1] }], ['hget', [k('a'), 'y'], null]],
  hgetall: (k) => [
    ['hset', [k('a'), { x: 1, y: 'two', z: { t: true }, big: '12345678901234567890' }], 4],
    ['hgetall', [k('a')], (all) => all.x === 1 && all.y === 'two' && all.z.t === true && all.big === '12345678901234567890'],
    ['hgetall', [k('absent')], null],
  ],
  hincrby: (k) => [['hincrby', [k('a'), 'x', 2], 2], ['hincrby', [k('a'), 'x', -3], -1]],
  hincrbyfloat: (k) => [['hincrbyfloat', [k('a'), 'x', 1.5], 1.5]],
  hkeys: (k) => [['hset', [k('a'), { x: 1, y: 2 }], 2], ['hkeys', [k('a')], sorted('x', 'y')], ['hkeys', [k('absent')], []]],
  hlen: (k) => [['hset', [k('a'), { x: 1, y: 2 }], 2], ['hlen', [k('a')], 2]],
  hmget: (k) => [['hset', [k('a'), { x: 1, y: 'two' }], 2], ['hmget', [k('a'), 'x', 'no', 'y'], { x: 1, no: null, y: 'two' }], ['hmget', [k('absent'), 'x'], null]],
  hmset: (k) => [['hmset', [k('a'), { x: 1, y: [2] }], 'OK'], ['hget', [k('a'), 'y'], [2]]],
  hrandfield: (k) => [
    ['hset', [k('a'), { x: 1, y: 2 }], 2],
    ['hrandfield', [k('a')], oneOf('x', 'y')],
    ['hrandfield', [k('a'), 2], sorted('x', 'y')],
    ['hrandfield', [k('a'), 2, true], (all) => all.x === 1 && all.y === 2],
  ],
  hscan: (k) => [['hset', [k('a'), { x: 1 }], 1], ['hscan', [k('a'), 0, { match: '*', count: 10 }], ['0', ['x', 1]]]],
  hset: (k) => [['hset', [k('a'), { x: 1, y: null }], 2], ['hset', [k('a'), { x: 2 }], 0], ['hget', [k('a'), 'x'], 2]],
  hsetnx: (k) => [['hsetnx', [k('a'), 'x', 1], 1], ['hsetnx', [k('a'), 'x', 2], 0]],
  hstrlen: (k) => [['hset', [k('a'), { x: 'four' }], 1], ['hstrlen', [k('a'), 'x'], 4]],
  hvals: (k) => [['hset', [k('a'), { x: 1 }], 1], ['hvals', [k('a')], [1]]],

  // Lists.
  lindex: (k) => [['rpush', [k('a'), 'x', 'y'], 2], ['lindex', [k('a'), -1], 'y'], ['lindex', [k('a'), 5], null]],
  linsert: (k) => [['rpush', [k('a'), 'x', 'z'], 2], ['linsert', [k('a'), 'before', 'z', 'y'], 3], ['lrange', [k('a'), 0, -1], ['x', 'y', 'z']]],
  llen: (k) => [['rpush', [k('a'), 1, 2], 2], ['llen', [k('a')], 2], ['llen', [k('absent')], 0]],
  lmove: (k) => [['rpush', [k('a'), 'x', 'y'], 2], ['lmove', [k('a'), k('b'), 'right', 'left'], 'y'], ['lrange', [k('b'), 0, -1], ['y']]],
  lmpop: (k) => [['rpush', [k('a'), 'x', 'y'], 2], ['lmpop', [2, [k('absent'), k('a')], 'LEFT', 2], [k('a'), ['x', 'y']]], ['lmpop', [1, [k('absent')], 'LEFT'], null]],
  lpop: (k) => [['rpush', [k('a'), 'x', 'y', 'z'], 3], ['lpop', [k('a')], 'x'], ['lpop', [k('a'), 2], ['y', 'z']], ['lpop', [k('a')], null]],
  lpos: (k) => [['rpush', [k('a'), 'x', 'y', 'x'], 3], ['lpos', [k('a'), 'x'], 0], ['lpos', [k('a'), 'x', { rank: -1, count: 0, maxLen: 10 }], [2, 0]]],
  lpush: (k) => [['lpush', [k('a'), 'x', { y: 1 }], 2], ['lrange', [k('a'), 0, -1], [{ y: 1 }, 'x']]],
  lpushx: (k) => [['lpushx', [k('a'), 'x'], 0], ['lpush', [k('a'), 'x'], 1], ['lpushx', [k('a'), 'y'], 2]],
  lrange: (k) => [['rpush', [k('a'), 1, 'two', [3]], 3], ['lrange', [k('a'), 0, -1], [1, 'two', [3]]], ['lrange', [k('absent'), 0, -1], []]],
  lrem: (k) => [['rpush', [k('a'), 'x', 'y', 'x'], 3], ['lrem', [k('a'), 1, 'x'], 1], ['lrange', [k('a'), 0, -1], ['y', 'x']]],
  lset: (k) => [['rpush', [k('a'), 'x'], 1], ['lset', [k('a'), 0, 'y'], 'OK'], ['lrange', [k('a'), 0, -1], ['y']]],
  ltrim: (k) => [['rpush', [k('a'), 1, 2, 3], 3], ['ltrim', [k('a'), 0, 1], 'OK'], ['llen', [k('a')], 2]],
  rpop: (k) => [['rpush', [k('a'), 'x', 'y'], 2], ['rpop', [k('a')], 'y'], ['rpop', [k('a'), 5], ['x']]],
  rpush: (k) => [['rpush', [k('a'), 'x'], 1], ['rpush', [k('a'), 'y', 'z'], 3]],
  rpushx: (k) => [['rpushx', [k('a'), 'x'], 0]],

  // Sets.
  sadd: (k) => [['sadd', [k('a'), 'x', 1, { y: 1 }], 3], ['sadd', [k('a'), 'x'], 0]],
  scard: (k) => [['sadd', [k('a'), 'x', 'y'], 2], ['scard', [k('a')], 2]],
  sdiff: (k) => [['sadd', [k('a'), 'x', 'y'], 2], ['sadd', [k('b'), 'y'], 1], ['sdiff', [k('a'), k('b')], ['x']]],
  sdiffstore: (k) => [['sadd', [k('a'), 'x', 'y'], 2], ['sdiffstore', [k('c'), k('a'), k('b')], 2]],
  sinter: (k) => [['sadd', [k('a'), 'x', 'y'], 2], ['sadd', [k('b'), 'y'], 1], ['sinter', [k('a'), k('b')], ['y']]],
  sintercard: (k) => [['sadd', [k('a'), 'x', 'y'], 2], ['sadd', [k('b'), 'x', 'y'], 2], ['sintercard', [[k('a'), k('b')]], 2], ['sintercard', [[k('a'), k('b')], { limit: 1 }], 1]],
  sinterstore: (k) => [['sadd', [k('a'), 'x'], 1], ['sinterstore', [k('c'), k('a')], 1], ['smembers', [k('c')], ['x']]],
  sismember: (k) => [['sadd', [k('a'), 'x'], 1], ['sismember', [k('a'), 'x'], 1], ['sismember', [k('a'), 'y'], 0]],
  smembers: (k) => [['sadd', [k('a'), 'x', 'y'], 2], ['smembers', [k('a')], sorted('x', 'y')], ['smembers', [k('absent')], []]],
  smismember: (k) => [['sadd', [k('a'), 'x'], 1], ['smismember', [k('a'), ['x', 'y']], [1, 0]]],
  smove: (k) => [['sadd', [k('a'), 'x'], 1], ['smove', [k('a'), k('b'), 'x'], 1], ['smove', [k('a'), k('b'), 'x'], 0]],
  spop: (k) => [['sadd', [k('a'), 'x'], 1], ['spop', [k('a')], 'x'], ['spop', [k('a'), 2], []]],
  srandmember: (k) => [['sadd', [k('a'), 'x', 'y'], 2], ['srandmember', [k('a')], oneOf('x', 'y')], ['srandmember', [k('a'), 5], sorted('x', 'y')]],
  srem: (k) => [['sadd', [k('a'), 'x', 'y'], 2], ['srem', [k('a'), 'x', 'z'], 1]],
  sscan: (k) => [['sadd', [k('a'), 'x'], 1], ['sscan', [k('a'), 0, { match: 'x*', count: 5 }], ['0', ['x']]]],
  sunion: (k) => [['sadd', [k('a'), 'x'], 1], ['sadd', [k('b'), 'y'], 1], ['sunion', [k('a'), k('b')], sorted('x', 'y')]],
  sunionstore: (k) => [['sadd', [k('a'), 'x'], 1], ['sunionstore', [k('c'), k('a'), k('b')], 1]],

  // Sorted sets.
  zadd: (k) => [
    ['zadd', [k('a'), { score: 1, member: 'x' }, { score: 2.5, member: 'y' }], 2],
    ['zadd', [k('a'), { xx: true, ch: true, gt: true }, { score: 5, member: 'x' }, { score: 1, member: 'y' }], 1],
    ['zadd', [k('a'), { nx: true }, { score: 9, member: 'x' }], 0],
    ['zadd', [k('a'), { incr: true }, { score: 1, member: 'x' }], 6],
  ],
  zcard: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }], 1], ['zcard', [k('a')], 1]],
  zcount: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }, { score: 2, member: 'y' }], 2], ['zcount', [k('a'), '(1', '+inf'], 1]],
  zdiffstore: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }], 1], ['zdiffstore', [k('c'), 2, k('a'), k('b')], 1]],
  zincrby: (k) => [['zincrby', [k('a'), 2.5, 'x'], 2.5]],
  zinterstore: (k) => [
    ['zadd', [k('a'), { score: 1, member: 'x' }], 1],
    ['zadd', [k('b'), { score: 2, member: 'x' }], 1],
    ['zinterstore', [k('c'), 2, [k('a'), k('b')], { weights: [2, 3], aggregate: 'max' }], 1],
    ['zscore', [k('c'), 'x'], 6],
  ],
  zlexcount: (k) => [['zadd', [k('a'), { score: 0, member: 'a' }, { score: 0, member: 'b' }], 2], ['zlexcount', [k('a'), '[a', '(b'], 1]],
  zmscore: (k) => [['zadd', [k('a'), { score: 1.5, member: 'x' }], 1], ['zmscore', [k('a'), ['x', 'y']], [1.5, null]]],
  zpopmax: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }, { score: 2, member: 'y' }], 2], ['zpopmax', [k('a')], ['y', 2]], ['zpopmax', [k('a'), 5], ['x', 1]]],
  zpopmin: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }, { score: 2, member: 'y' }], 2], ['zpopmin', [k('a'), 2], ['x', 1, 'y', 2]]],
  zrange: (k) => [
    ['zadd', [k('a'), { score: 1, member: 'x' }, { score: 2, member: 'y' }, { score: 3, member: { z: 1 } }], 3],
    ['zrange', [k('a'), 0, -1, { withScores: true }], ['x', 1, 'y', 2, { z: 1 }, 3]],
    ['zrange', [k('a'), '(1', '+inf', { byScore: true, offset: 0, count: 1 }], ['y']],
    ['zrange', [k('a'), 0, 0, { rev: true }], [{ z: 1 }]],
    ['zrange', [k('a'), '-', '+', { byLex: true }], ['x', 'y', { z: 1 }]],
  ],
  zrank: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }, { score: 2, member: 'y' }], 2], ['zrank', [k('a'), 'y'], 1], ['zrank', [k('a'), 'no'], null]],
  zrem: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }], 1], ['zrem', [k('a'), 'x', 'y'], 1]],
  zremrangebylex: (k) => [['zadd', [k('a'), { score: 0, member: 'a' }, { score: 0, member: 'b' }], 2], ['zremrangebylex', [k('a'), '[a', '[a'], 1]],
  zremrangebyrank: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }, { score: 2, member: 'y' }], 2], ['zremrangebyrank', [k('a'), 0, 0], 1]],
  zremrangebyscore: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }, { score: 2, member: 'y' }], 2], ['zremrangebyscore', [k('a'), '-inf', '(2'], 1]],
  zrevrank: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }, { score: 2, member: 'y' }], 2], ['zrevrank', [k('a'), 'y'], 0]],
  zscan: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }], 1], ['zscan', [k('a'), 0, { match: '*' }], ['0', ['x', 1]]]],
  zscore: (k) => [['zadd', [k('a'), { score: 0.5, member: 'x' }], 1], ['zscore', [k('a'), 'x'], 0.5], ['zscore', [k('a'), 'y'], null]],
  zunion: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }], 1], ['zadd', [k('b'), { score: 2, member: 'x' }], 1], ['zunion', [2, [k('a'), k('b')], { withScores: true, aggregate: 'sum' }], ['x', 3]]],
  zunionstore: (k) => [['zadd', [k('a'), { score: 1, member: 'x' }], 1], ['zunionstore', [k('c'), 1, k('a'), { weights: [4] }], 1], ['zscore', [k('c'), 'x'], 4]],

  // Geo and HyperLogLog.
  geoadd: (k) => [['geoadd', [k('a'), ...PLACES], 2], ['geoadd', [k('a'), { nx: true }, PLACES[0]], 0]],
  geodist: (k) => [['geoadd', [k('a'), ...PLACES], 2], ['geodist', [k('a'), 'Palermo', 'Catania', 'KM'], 166.2742], ['geodist', [k('a'), 'Palermo', 'no'], null]],
  geohash: (k) => [['geoadd', [k('a'), ...PLACES], 2], ['geohash', [k('a'), 'Palermo', 'no'], ['sqc8b49rny0', null]]],
  geopos: (k) => [['geoadd', [k('a'), ...PLACES], 2], ['geopos', [k('a'), 'Palermo', 'no'], ([palermo, ...rest]) => rest.length === 0 && Math.abs(palermo.lng - 13.361389) < 1e-4]],
  geosearch: (k) => [
    ['geoadd', [k('a'), ...PLACES], 2],
    ['geosearch', [k('a'), { type: 'FROMLONLAT', coordinate: { lon: 15, lat: 37 } }, { type: 'BYRADIUS', radius: 100, radiusType: 'KM' }, 'ASC'], [{ member: 'Catania' }]],
    [
      'geosearch',
      [k('a'), { type: 'FROMMEMBER', member: 'Palermo' }, { type: 'BYBOX', rect: { width: 400, height: 400 }, rectType: 'KM' }, 'ASC', { withDist: true, withCoord: true, withHash: true, count: { limit: 2 } }],
      (found) => found.length === 2 && found[0].member === 'Palermo' && found[0].dist === 0 && found[1].hash.length > 5 && found[1].coord.lat > 37,
    ],
  ],
  geosearchstore: (k) => [
    ['geoadd', [k('a'), ...PLACES], 2],
    ['geosearchstore', [k('b'), k('a'), { type: 'FROMMEMBER', member: 'Palermo' }, { type: 'BYRADIUS', radius: 200, radiusType: 'KM' }, 'ASC', { storeDist: true }], 2],
    ['zcard', [k('b')], 2],
  ],
  pfadd: (k) => [['pfadd', [k('a'), 'x', 'y'], 1], ['pfadd', [k('a'), 'x'], 0]],
  pfcount: (k) => [['pfadd', [k('a'), 'x', 'y'], 1], ['pfcount', [k('a'), k('b')], 2]],
  pfmerge: (k) => [['pfadd', [k('a'), 'x'], 1], ['pfmerge', [k('c'), k('a'), k('b')], 'OK'], ['pfcount', [k('c')], 1]],

  // Streams.
  xadd: (k) => [
    ['xadd', [k('a'), '1-1', { x: 1, y: 'two' }], '1-1'],
    ['xadd', [k('a'), '2-1', { x: 2 }, { trim: { type: 'MAXLEN', comparison: '=', threshold: 1 } }], '2-1'],
    ['xadd', [k('b'), '1-1', { x: 2 }, { nomkStream: true }], null],
    ['xlen', [k('a')], 1],
  ],
  xlen: (k) => [['xadd', [k('a'), '*', { x: 1 }], (id) => /^\d+-\d+$/.test(id)], ['xlen', [k('a')], 1]],
  xdel: (k) => [['xadd', [k('a'), '1-1', { x: 1 }], '1-1'], ['xdel', [k('a'), ['1-1', '1-2']], 1]],
  xrange: (k) => [
    ['xadd', [k('a'), '1-1', { x: 1, y: { z: 2 } }], '1-1'],
    ['xadd', [k('a'), '1-2', { x: 'two' }], '1-2'],
    ['xrange', [k('a'), '-', '+'], { '1-1': { x: 1, y: { z: 2 } }, '1-2': { x: 'two' } }],
    ['xrange', [k('a'), '(1-1', '+', 5], { '1-2': { x: 'two' } }],
  ],
  xrevrange: (k) => [
    ['xadd', [k('a'), '1-1', { x: 1 }], '1-1'],
    ['xadd', [k('a'), '1-2', { x: 2 }], '1-2'],
    ['xrevrange', [k('a'), '+', '-', 1], { '1-2': { x: 2 } }],
  ],
  xread: (k) => [
    ['xadd', [k('a'), '1-1', { x: 1 }], '1-1'],
    ['xread', [k('a'), '0'], [[k('a'), [['1-1', ['x', 1]]]]]],
    ['xread', [[k('a'), k('b')], ['0', '0'], { count: 1 }], [[k('a'), [['1-1', ['x', 1]]]]]],
    ['xread', [k('a'), '$'], null],
  ],
  xtrim: (k) => [
    ['xadd', [k('a'), '1-1', { x: 1 }], '1-1'],
    ['xadd', [k('a'), '1-2', { x: 1 }], '1-2'],
    ['xtrim', [k('a'), { strategy: 'MAXLEN', exactness: '=', threshold: 1 }], 1],
    ['xtrim', [k('a'), { strategy: 'MINID', threshold: '0', limit: 10 }], 0],
  ],
  xgroup: (k) => [
    ['xgroup', [k('a'), { type: 'CREATE', group: 'g', id: '0', options: { MKSTREAM: true } }], 'OK'],
    ['xgroup', [k('a'), { type: 'CREATECONSUMER', group: 'g', consumer: 'c' }], 1],
    ['xgroup', [k('a'), { type: 'SETID', group: 'g', id: '0', options: { ENTRIESREAD: 0 } }], 'OK'],
    ['xgroup', [k('a'), { type: 'DELCONSUMER', group: 'g', consumer: 'c' }], 0],
    ['xgroup', [k('a'), { type: 'DESTROY', group: 'g' }], 1],
  ],
  xreadgroup: (k) => [...group(k), ['xreadgroup', ['g', 'c', k('a'), '>', { count: 5 }], [[k('a'), [['1-1', ['x', 1]]]]]], ['xreadgroup', ['g', 'c', k('a'), '>', { NOACK: true }], null]],
  xack: (k) => [...group(k), ['xreadgroup', ['g', 'c', k('a'), '>'], READ(k)], ['xack', [k('a'), 'g', '1-1'], 1], ['xack', [k('a'), 'g', ['1-1']], 0]],
  xinfo: (k) => [
    ...group(k),
    ['xinfo', [k('a'), { type: 'GROUPS' }], ([found]) => found[0] === 'name' && found[1] === 'g'],
    ['xinfo', [k('a'), { type: 'CONSUMERS', group: 'g' }], []],
  ],
  xpending: (k) => [
    ...group(k),
    ['xreadgroup', ['g', 'c', k('a'), '>'], READ(k)],
    ['xpending', [k('a'), 'g', '-', '+', 10], ([[id, consumer, , count]]) => id === '1-1' && consumer === 'c' && count === 1],
    ['xpending', [k('a'), 'g', '-', '+', 10, { idleTime: 60_000, consumer: 'c' }], []],
  ],
  xclaim: (k) => [
    ...group(k),
    ['xreadgroup', ['g', 'c', k('a'), '>'], READ(k)],
    ['xclaim', [k('a'), 'g', 'd', 0, '1-1', { justId: true }], ['1-1']],
    ['xclaim', [k('a'), 'g', 'd', 60_000, ['1-1'], { retryCount: 3, force: true }], []],
  ],
  xautoclaim: (k) => [
    ...group(k),
    ['xreadgroup', ['g', 'c', k('a'), '>'], READ(k)],
    ['xautoclaim', [k('a'), 'g', 'd', 0, '0-0', { count: 5, justId: true }], ['0-0', ['1-1'], []]],
  ],

  // Scripts and functions.
  eval: (k) => [['eval', [SCRIPT, [k('a')], ['x']], [k('a'), 'x', [1, null]]], ['eval', ["return redis.call('set', KEYS[1], ARGV[1])", [k('a')], ['y']], 'OK'], ['get', [k('a')], 'y']],
  evalRo: (k) => [['evalRo', [SCRIPT, [k('a')], ['x']], [k('a'), 'x', [1, null]]]],
  scriptLoad: () => [['scriptLoad', [SCRIPT], SCRIPT_SHA]],
  evalsha: (k) => [['scriptLoad', [SCRIPT], SCRIPT_SHA], ['evalsha', [SCRIPT_SHA, [k('a')], ['x']], [k('a'), 'x', [1, null]]]],
  evalshaRo: (k) => [['scriptLoad', [SCRIPT], SCRIPT_SHA], ['evalshaRo', [SCRIPT_SHA, [k('a')], ['x']], [k('a'), 'x', [1, null]]]],
  scriptExists: () => [['scriptLoad', [SCRIPT], SCRIPT_SHA], ['scriptExists', [SCRIPT_SHA, '0'.repeat(40)], [1, 0]]],
  'functions.load': () => [['functions.load', [{ code: LIBRARY, replace: true }], 'clienttests']],
  'functions.list': () => [
    ['functions.load', [{ code: LIBRARY, replace: true }], 'clienttests'],
    ['functions.list', [{ libraryName: 'clienttests', withCode: true }], ([found]) => found.libraryName === 'clienttests' && found.functions[0].name === 'clienttests_echo' && found.libraryCode === LIBRARY],
  ],
  'functions.stats': () => [['functions.load', [{ code: LIBRARY, replace: true }], 'clienttests'], ['functions.stats', [], (stats) => stats.engines.LUA.librariesCount === 1]],
  'functions.call': (k) => [['functions.load', [{ code: LIBRARY, replace: true }], 'clienttests'], ['functions.call', ['clienttests_echo', [k('a')], ['x']], 'x']],
  'functions.callRo': (k) => [['functions.load', [{ code: LIBRARY, replace: true }], 'clienttests'], ['functions.callRo', ['clienttests_echo', [k('a')], ['x']], 'x']],
  'functions.delete': () => [['functions.load', [{ code: LIBRARY, replace: true }], 'clienttests'], ['functions.delete', ['clienttests'], 'OK']],

  // The server, and any command at all.
  dbsize: (k) => [['set', [k('a'), 1], 'OK'], ['dbsize', [], (size) => size >= 1]],
  echo: () => [['echo', ['hello'], 'hello']],
  exec: (k) => [['exec', [['SET', k('a'), 'x']], 'OK'], ['exec', [['STRLEN', k('a')]], 1]],
  ping: () => [['ping', [], 'PONG'], ['ping', [['hello']], 'hello']],
  publish: () => [['publish', ['nobody-listens', { x: 1 }], 0]],
  time: () => [['time', [], ([seconds, micros]) => seconds > 1_700_000_000 && micros >= 0]],
}

const PLACES = [
  { longitude: 13.361389, latitude: 38.115556, member: 'Palermo' },
  { longitude: 15.087269, latitude: 37.502669, member: 'Catania' },
]

function group(k) {
  return [
    ['xadd', [k('a'), '1-1', { x: 1 }], '1-1'],
    ['xgroup', [k('a'), { type: 'CREATE', group: 'g', id: '0' }], 'OK'],
  ]
}

function READ(k) {
  return [[k('a'), [['1-1', ['x', 1]]]]]
}

/** Commands of a later or another server. They are tried where the server behind the door knows them. */
export const SINCE = {
  'Redis 7.4': {
    hexpire: (k) => [['hset', [k('a'), { x: 1 }], 1], ['hexpire', [k('a'), 'x', 100], [1]]],
    hexpireat: (k) => [['hset', [k('a'), { x: 1 }], 1], ['hexpireat', [k('a'), 'x', LATER], [1]]],
    hexpiretime: (k) => [['hexpiretime', [k('absent'), 'x'], [-2]]],
    hpersist: (k) => [['hpersist', [k('absent'), 'x'], [-2]]],
    hpexpire: (k) => [['hset', [k('a'), { x: 1 }], 1], ['hpexpire', [k('a'), 'x', 100_000], [1]]],
    hpexpireat: (k) => [['hset', [k('a'), { x: 1 }], 1], ['hpexpireat', [k('a'), 'x', LATER * 1000], [1]]],
    hpexpiretime: (k) => [['hpexpiretime', [k('absent'), 'x'], [-2]]],
    hpttl: (k) => [['hpttl', [k('absent'), 'x'], [-2]]],
    httl: (k) => [['httl', [k('absent'), 'x'], [-2]]],
  },
  'Redis 8.0': {
    hgetdel: (k) => [['hset', [k('a'), { x: 1 }], 1], ['hgetdel', [k('a'), 'x'], { x: 1 }]],
    hgetex: (k) => [['hset', [k('a'), { x: 1 }], 1], ['hgetex', [k('a'), { ex: 100 }, 'x'], { x: 1 }]],
    hsetex: (k) => [['hsetex', [k('a'), { expiration: { ex: 100 } }, { x: 1 }], 1]],
  },
  'Redis 8.2': {
    xackdel: (k) => [...group(k), ['xackdel', [k('a'), 'g', 'KEEPREF', '1-1'], [-1]]],
    xdelex: (k) => [['xadd', [k('a'), '1-1', { x: 1 }], '1-1'], ['xdelex', [k('a'), 'KEEPREF', '1-1'], [1]]],
  },
}

/** Commands that a plain Redis 7 does not have at all, each with arguments that would be right: the door must say so. */
export const NOT_IN_PLAIN_REDIS = {
  'the array type of Upstash': {
    arcount: ['k'], ardel: ['k', 0], ardelrange: ['k', 0, 1], arget: ['k', 0], argetrange: ['k', 0, 1], argrep: ['k', 0, 1, { predicates: [] }],
    arinfo: ['k'], arinsert: ['k', 'v'], arlastitems: ['k', 1], arlen: ['k'], armget: ['k', 0], armset: ['k', { 0: 'v' }],
    arnext: ['k'], arop: ['k', 0, 1, 'SUM'], arring: ['k', 3, 'v'], arscan: ['k', 0, 1], arseek: ['k', 0], arset: ['k', 0, 'v'],
  },
  'the module RedisJSON': {
    'json.arrappend': ['k', '$', 1], 'json.arrindex': ['k', '$', 1], 'json.arrinsert': ['k', '$', 0, 1], 'json.arrlen': ['k'],
    'json.arrpop': ['k'], 'json.arrtrim': ['k', '$', 0, 1], 'json.clear': ['k'], 'json.del': ['k'], 'json.forget': ['k'],
    'json.get': ['k'], 'json.merge': ['k', '$', {}], 'json.mget': [['k'], '$'], 'json.mset': [{ key: 'k', path: '$', value: 1 }],
    'json.numincrby': ['k', '$', 1], 'json.nummultby': ['k', '$', 2], 'json.objkeys': ['k'], 'json.objlen': ['k'],
    'json.resp': ['k'], 'json.set': ['k', '$', {}], 'json.strappend': ['k', '$', '"x"'], 'json.strlen': ['k'],
    'json.toggle': ['k', '$'], 'json.type': ['k'],
  },
  'the search of Upstash': { 'search.alias.list': [] },
  'the vectors of Upstash': { 'vector.createIndex': [{ name: 'v', dimension: 3, metric: 'COSINE' }] },
}

/** Commands that Redis has and that are refused on purpose, with what the refusal says. */
export const REFUSED = {
  clientSetinfo: { args: ['LIB-NAME', 'tests'], because: 'belongs to a connection' },
  flushall: { args: [], because: 'acts on the server' },
  flushdb: { args: [], because: 'acts on the server' },
  scriptFlush: { args: [], because: 'acts on the server' },
  'functions.flush': { args: [], because: 'acts on the server' },
}

/** What is no command, and where it is tested. */
export const NO_COMMANDS = {
  use: 'client', addTelemetry: 'client', createScript: 'door.test.mjs', autoPipeline: 'commands.test.mjs', multi: 'commands.test.mjs',
  pipeline: 'commands.test.mjs', psubscribe: 'subscribe.test.mjs', subscribe: 'subscribe.test.mjs',
  'search.createIndex': 'as search.alias.list', 'search.index': 'sends nothing', 'search.alias.add': 'as search.alias.list',
  'search.alias.delete': 'as search.alias.list', 'vector.index': 'sends nothing',
}

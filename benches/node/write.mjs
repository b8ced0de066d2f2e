// One writer in the ways that `make bench ARGS=written` compares. Takes its settings as JSON, prints its figures as JSON.
//
//   own         PostgreSQL, then Redis, each awaited: how an application does it that was told to keep both
//   redis       Redis alone: how it was before
//   door-redis  through the door, answered when Redis has it
//   door-both   through the door, answered when PostgreSQL has committed

import Redis from 'ioredis';
import pg from 'pg';
import { Pool } from 'undici';

const settings = JSON.parse(process.argv[2]);
const KEYS = 1000;
const WARM_UP_MS = 500;

const value = JSON.stringify({
  id: 'a0b1c2d3', name: 'somebody', email: 'somebody@example.com', role: 'user', isActive: true,
  createdAt: '2026-01-01T00:00:00.000Z', lastLoginAt: '2026-01-02T00:00:00.000Z', apiKeyCount: 3,
});

const writers = {
  async own() {
    const pool = new pg.Pool({ connectionString: settings.postgres, max: 20 });
    const redis = new Redis({ port: settings.redisPort });
    await pool.query('CREATE TABLE IF NOT EXISTS self_written (key text PRIMARY KEY, data jsonb, updated_at timestamptz)');
    const text = `INSERT INTO self_written (key, data, updated_at) VALUES ($1, $2, now())
      ON CONFLICT (key) DO UPDATE SET data = excluded.data, updated_at = excluded.updated_at`;
    return {
      async write(key) {
        await pool.query({ name: 'write', text, values: [key, value] });
        await redis.set(key, value, 'EX', 3600);
      },
      async close() { await pool.end(); redis.disconnect(); },
    };
  },

  async redis() {
    const redis = new Redis({ port: settings.redisPort });
    return {
      write: (key) => redis.set(key, value, 'EX', 3600),
      async close() { redis.disconnect(); },
    };
  },

  async door(ack) {
    const pool = new Pool(settings.door, { connections: settings.concurrent });
    const headers = { 'content-type': 'application/json', 'parallax-ack': ack };
    return {
      async write(key) {
        const body = JSON.stringify(['SET', key, value, 'EX', '3600']);
        const answer = await pool.request({ method: 'POST', path: '/redis', headers, body });
        const told = await answer.body.json();
        if (told.result !== 'OK') throw new Error(JSON.stringify(told));
      },
      close: () => pool.close(),
    };
  },
};

const [mode, ack] = settings.mode.split('-');
const writer = await writers[mode](ack);
const took = [];
let until = 0;
let next = 0;

async function work() {
  while (performance.now() < until) {
    const began = performance.now();
    await writer.write(`original_session_binding:${next++ % KEYS}`);
    took.push(performance.now() - began);
  }
}

async function run(ms) {
  took.length = 0;
  const [cpu, began] = [process.cpuUsage(), performance.now()];
  until = began + ms;
  await Promise.all(Array.from({ length: settings.concurrent }, work));
  const used = process.cpuUsage(cpu);
  return { seconds: (performance.now() - began) / 1000, cpu: used.user + used.system };
}

await run(WARM_UP_MS);
const { seconds, cpu } = await run(settings.seconds * 1000);
await writer.close();
took.sort((one, two) => one - two);
const at = (share) => took[Math.floor((took.length - 1) * share)] * 1000;
console.log(JSON.stringify({ perSecond: took.length / seconds, p50us: at(0.5), p99us: at(0.99), cpuUs: cpu / took.length }));

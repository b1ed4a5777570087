// node-postgres: types, parameters, transactions, errors, metadata, COPY's protocol is left to others.
// Invariant: exits 0 only when every check held; prints the first that did not.
'use strict';
const assert = require('node:assert');
const { Client, Pool } = require('pg');
const Cursor = require('pg-cursor');

const config = { host: '127.0.0.1', port: Number(process.argv[2]), user: 'app', database: 'thalweg' };
const table = `node${process.hrtime.bigint()}`;

async function types(client) {
  const query = `SELECT 1::int2 a, 2::int4 b, '9007199254740993'::int8 c, 1.5::float8 d, 12.50::numeric(10,2) e, 'x'::text f, true g,
    '2024-01-02T03:04:05Z'::timestamptz h, ARRAY[1, NULL, 3] i, '{"a": [1]}'::jsonb j, '\\x00ff'::bytea k, NULL::int l,
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid m, ARRAY['a', 'b,c'] n, interval '1 day 02:03:04' o, date '2024-02-29' p`;
  for (const text of [query, { name: 'types', text: query }]) {
    const { rows: [row], fields } = await client.query(text);
    assert.deepStrictEqual([row.a, row.b, row.c, row.d, row.e, row.f, row.g, row.l], [1, 2, '9007199254740993', 1.5, '12.50', 'x', true, null]);
    assert.strictEqual(row.h.toISOString(), '2024-01-02T03:04:05.000Z');
    assert.deepStrictEqual([row.i, row.j, row.n], [[1, null, 3], { a: [1] }, ['a', 'b,c']]);
    assert.deepStrictEqual([...row.k], [0, 255]);
    assert.strictEqual(row.m, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
    assert.deepStrictEqual([row.o.days, row.o.hours, row.o.minutes, row.o.seconds], [1, 2, 3, 4]);
    assert.deepStrictEqual([row.p.getFullYear(), row.p.getMonth(), row.p.getDate()], [2024, 1, 29]);
    assert.deepStrictEqual(fields.map((field) => field.dataTypeID),
      [21, 23, 20, 701, 1700, 25, 16, 1184, 1007, 3802, 17, 23, 2950, 1009, 1186, 1082]);
    assert.strictEqual(fields[4].dataTypeModifier, ((10 << 16) | 2) + 4);
  }
  const values = [7, 'it\'s', true, new Date(0), [1, 2], { k: 1 }, Buffer.from([1, 2]), null];
  const { rows: [back] } = await client.query(
    'SELECT $1::int a, $2::text b, $3::bool c, $4::timestamptz d, $5::int[] e, $6::jsonb f, $7::bytea g, $8::text h', values);
  assert.deepStrictEqual(Object.values(back), values);
}

async function writes(client) {
  await client.query(`CREATE TABLE ${table} (id int PRIMARY KEY, name text)`);
  const insert = { name: 'insert', text: `INSERT INTO ${table} VALUES ($1, $2)` };
  for (let id = 1; id <= 10; id += 1) {
    assert.strictEqual((await client.query({ ...insert, values: [id, `n${id}`] })).rowCount, 1);
  }
  await client.query('BEGIN');
  await client.query(`DELETE FROM ${table}`);
  assert.strictEqual((await client.query(`SELECT id FROM ${table}`)).rowCount, 0);
  await client.query('ROLLBACK');
  const returned = await client.query(`UPDATE ${table} SET name = 'x' WHERE id < $1 RETURNING id`, [3]);
  assert.deepStrictEqual(returned.rows.map((row) => row.id).sort(), [1, 2]);
}

async function errors(client) {
  for (const [text, code] of [['SELECT 1 / 0', '22012'], ['SELECT * FROM nosuch', '42P01'], ['SELEC 1', '42601'],
    [`INSERT INTO ${table} VALUES (1)`, '23505']]) {
    await assert.rejects(client.query(text), (error) => error.code === code, text);
    assert.strictEqual((await client.query('SELECT 1 AS one')).rows[0].one, 1);
  }
  await client.query('BEGIN');
  await assert.rejects(client.query('SELECT 1 / 0'));
  await assert.rejects(client.query('SELECT 1'), (error) => error.code === '25P02');
  await client.query('ROLLBACK');
}

async function metadata(client) {
  const { rows } = await client.query(
    'SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = $1 ORDER BY ordinal_position', [table]);
  assert.deepStrictEqual(rows.map(Object.values), [['id', 'integer', 'NO'], ['name', 'text', 'YES']]);
}

async function portions(client) {
  const cursor = client.query(new Cursor('SELECT g FROM generate_series(1, $1) AS s(g)', [25]));
  const seen = [];
  for (let rows = await cursor.read(10); rows.length; rows = await cursor.read(10)) seen.push(rows.length);
  assert.deepStrictEqual(seen, [10, 10, 5]);
  await cursor.close();
}

async function follows(client) {
  const other = new Client(config);
  await other.connect();
  await other.query('BEGIN');
  await other.query(`DECLARE c CURSOR FOR SUBSCRIBE ${table}`);
  assert.strictEqual((await other.query("FETCH ALL FROM c WITH (timeout = '10s')")).rows.length, 10);
  await client.query(`DELETE FROM ${table} WHERE id = 5`);
  const { rows } = await other.query("FETCH ALL FROM c WITH (timeout = '10s')");
  assert.deepStrictEqual(rows.map((row) => [row._diff, row.id]), [['-1', 5]]);
  await other.query('COMMIT');
  await other.end();
}

async function main() {
  const client = new Client(config);
  await client.connect();
  for (const check of [types, writes, errors, metadata, portions, follows]) await check(client);
  await client.end();
  const pool = new Pool({ ...config, max: 4 });
  const answers = await Promise.all([...Array(40).keys()].map((n) => pool.query('SELECT $1::int AS n', [n])));
  assert.deepStrictEqual(answers.map((answer) => answer.rows[0].n), [...Array(40).keys()]);
  await pool.end();
}

main().then(() => console.log('ok'), (error) => { console.error(error); process.exit(1); });

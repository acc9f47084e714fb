-- Rows, as many as `demo.rows` says per thousand, the same for the same `demo.seed` on every version.

--# always
-- random() changed between versions; md5 did not.
CREATE FUNCTION pg_temp.dice(i bigint, salt text) RETURNS int LANGUAGE sql AS $$
    SELECT ('x' || substr(md5(current_setting('demo.seed') || ':' || salt || ':' || i), 1, 7))::bit(28)::int
$$;
CREATE FUNCTION pg_temp.words(i bigint, salt text, n int) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(md5(current_setting('demo.seed') || salt || i || ':' || k), ' ' ORDER BY k)
    FROM generate_series(1, n) AS k
$$;
CREATE FUNCTION pg_temp.rows(share numeric) RETURNS int LANGUAGE sql AS $$
    SELECT greatest(1, (current_setting('demo.rows')::numeric * share)::int)
$$;

INSERT INTO shop.customer (email, name, note, country, home, earlier, discount, created)
SELECT 'user' || i || '@example.org',
       CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'Näme ' || pg_temp.words(i, 'name', 1) END,
       (ARRAY[NULL, '', 'null', 'NULL', E'tab\tnew\nline\\N \\.', '表🐘', '"quoted", {braced}'])[1 + i % 7],
       (enum_range(NULL::shop.country))[1 + i % 5],
       CASE WHEN i % 3 > 0 THEN ROW('Straße ' || i, i, ARRAY[i, NULL, 0.10], 'fi')::shop.address END,
       CASE WHEN i % 4 = 0 THEN ARRAY[ROW('a,"b"\', NULL, '{}', '')::shop.address, NULL] END,
       pg_temp.dice(i, 'discount') % 10001 / 100.0,
       timestamptz '2020-01-01 00:00:00.123456+00' + i * interval '1 hour 7 seconds'
FROM generate_series(1, pg_temp.rows(1)) AS i;

INSERT INTO shop.category SELECT i, nullif(i / 3, 0), 'category ' || i FROM generate_series(1, 60) AS i;

INSERT INTO shop.product (sku, category, price, tags, grid, properties, stock)
SELECT 'SKU-' || i, 1 + i % 60, (pg_temp.dice(i, 'price') % 100000) / 100.0,
       ARRAY['t' || i % 9, '', 'with "quote" and , comma', NULL],
       CASE WHEN i % 2 = 0 THEN ARRAY[[i, NULL], [3, 4]] END,
       jsonb_build_object('i', i, 'nested', jsonb_build_array(NULL, 1.50, 'x' || i)),
       pg_temp.dice(i, 'stock') % 1000
FROM generate_series(1, pg_temp.rows(0.3)) AS i;

INSERT INTO shop.orders (placed, region, customer, state, total)
SELECT date '2023-01-01' + pg_temp.dice(i, 'placed') % 1000, (ARRAY['de', 'fi', 'us', 'jp', 'O''Higgins'])[1 + i % 5],
       1000 + 3 * (pg_temp.dice(i, 'customer') % pg_temp.rows(1)), 'new', pg_temp.dice(i, 'total') % 1000000 / 100.0
FROM generate_series(1, pg_temp.rows(3)) AS i;

INSERT INTO shop.order_line
SELECT id, position, 1 + pg_temp.dice(id * 7 + position, 'product') % pg_temp.rows(0.3), position * 2, NULL
FROM shop.orders CROSS JOIN generate_series(1, 3) AS position;

INSERT INTO shop.journal
SELECT 'word ' || i % 17, i % 3 / 7.0, point(i % 2, 0.1), '{"a" : 1,  "a":2}'
FROM generate_series(1, pg_temp.rows(0.5)) AS i;
INSERT INTO shop.heartbeat
SELECT i % 10, timestamptz '2024-01-01+00' + i % 5 * interval '1 s', 'host' FROM generate_series(1, 200) AS i;
INSERT INTO shop.queue SELECT i, 'ticket ' || i FROM generate_series(1, 200) AS i;
INSERT INTO shop.seat SELECT i, i, i, 'guest ' || i FROM generate_series(1, 500) AS i;
INSERT INTO shop.booking (rooms, during)
SELECT int4range(i % 20, i % 20 + 1), tsrange(t, t + interval '1 hour')
FROM generate_series(1, 400) AS i, LATERAL (SELECT timestamp '2024-01-01' + i / 20 * interval '2 hours') AS _(t);

INSERT INTO shop.document
SELECT md5('document' || i)::uuid, 'title ' || i, pg_temp.words(i, 'body', 50 + pg_temp.dice(i, 'length') % 400),
       jsonb_build_object('words', pg_temp.words(i, 'data', 150), 'i', i),
       CASE WHEN i % 3 = 0 THEN decode(repeat(md5(i::text), 200), 'hex') END, 1
FROM generate_series(1, pg_temp.rows(0.2)) AS i;
INSERT INTO shop.contract SELECT i, pg_temp.words(i, 'contract', 300), 'draft' FROM generate_series(1, 50) AS i;

INSERT INTO shop.animal SELECT i, 'animal ' || i, 4 FROM generate_series(1, 50) AS i;
INSERT INTO shop.bird (id, name, wingspan) SELECT i, 'bird ' || i, i / 3.0 FROM generate_series(1, 50) AS i;
INSERT INTO shop.fish (id, name, depth) SELECT i, 'fish ' || i, i / 3.0 FROM generate_series(1, 50) AS i;

INSERT INTO shop.account SELECT i, 1000, 'owner ' || i FROM generate_series(1, 200) AS i;
INSERT INTO shop.scratch (text) SELECT 'scratch ' || i FROM generate_series(1, 100) AS i;
INSERT INTO shop.scratch_child (scratch) SELECT i FROM generate_series(1, 100) AS i;
INSERT INTO shop.event (kind, payload, at)
SELECT 'kind ' || i % 5, pg_temp.words(i, 'event', 2), timestamp '2024-01-01' + i * interval '1 min'
FROM generate_series(1, pg_temp.rows(2)) AS i;

INSERT INTO "Ünï Schöma"."Größe ""quoted"" 表"
SELECT i, 'select', 'a.b', -i, ' ', '%s;--' FROM generate_series(1, 100) AS i;
INSERT INTO shop.nothing SELECT FROM generate_series(1, 3);
INSERT INTO shop.cache SELECT 'key ' || i, 'value' FROM generate_series(1, 20) AS i;
INSERT INTO shop.shrunk (a, c) SELECT i, i FROM generate_series(1, 50) AS i;
INSERT INTO shop.wide (id, column_1, column_200) SELECT i, i, i FROM generate_series(1, 50) AS i;

INSERT INTO shop.every_type VALUES
(1, true, 'c', 'name', -32768, 9223372036854775807, 1.1, 0.1::float8 + 0.2, 123456789012345678901234567890.123456789,
 0.1000000000, '-1234.56', 'vàrchar', 'bp', '\x00ff5c27', B'10101', B'1', '2024-02-29', '23:59:59.999',
 '12:00+05:30', 'infinity', '-infinity', '1 year -2 mons 3 days -04:05:06.7', md5('u')::uuid,
 '{"z": 1, "z":  2}', '{"a": [1, {"b": null}]}', '::1/64', '10.0.0.0/8', '08:00:2b:01:02:03',
 '08:00:2b:01:02:03:04:05', '(0.1,-0)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))',
 '<(0,0),2>', '''it''''s'':1A fat:2', 'fat & (rat | !cat:*)', '[1,10)', '(,5.5]', '[2024-01-01 00:00+00,)', '[0.1,0.3)',
 4294967295, '12345', '1', '(42,7)', '16/B374D848', '10:20:10,14,15', '1 2 3', '4 5 6',
 'shop.customer', 'shop.address', 'now', 'postgres', 'Côte d''Ivoire', 99.99, ROW('s', 1, '{1.5}', 'de'),
 ARRAY['a', NULL, '', 'NULL', 'q"\,{}'], '[0:1][2:3]={{1,2},{3,NULL}}', ARRAY['NaN', 'Infinity', '-0', 0.1]::float8[],
 ARRAY['\x00', NULL]::bytea[], ARRAY['de', '']::shop.country[], ARRAY[ROW('x', 2, NULL, NULL)::shop.address],
 ARRAY['[1,2)', 'empty']::int4range[], ARRAY['epoch']::timestamptz[], '{(1,1),(0,0);(2,2),(1,1)}',
 ARRAY['{"a": 1}', 'null']::jsonb[], 'cursor'),
(3, false, '', '', 0, 0, 'NaN', 'Infinity', 'NaN', 0, 0::money, '', '', '', B'00000', '', 'epoch', '00:00', '00:00+00',
 'epoch', '4713-01-01 00:00+00 BC', '0', md5('')::uuid, 'null', 'null', '0.0.0.0', '::/0', '00:00:00:00:00:00',
 '00:00:00:00:00:00:00:00', '(0,0)', '{0,1,0}', '[(0,0),(0,0)]', '(0,0),(0,0)', '((0,0))', '((0,0))', '<(0,0),0>', '', '',
 'empty', 'empty', 'empty', 'empty', 0, '0', '0', '(0,1)', '0/0', '1:1:', '', '', '0', '0', '0', '0', '', 0,
 ROW(NULL, NULL, NULL, NULL), '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '');
INSERT INTO shop.every_type (id) VALUES (2);

SELECT nextval('shop.downwards'), nextval('shop.downwards'), nextval('shop.small'), nextval('shop.huge');
SELECT lo_from_bytea((90000 + i)::oid, decode(md5(i::text), 'hex')) FROM generate_series(1, 5) AS i;

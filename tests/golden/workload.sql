-- The workload behind every golden stream, on the tables of schema.sql. Expects the psql variable dsn:
-- how dblink reaches the same database.

-- Bulk that no publication holds: it fills logical_decoding_work_mem, so that transactions are
-- streamed while in progress, and costs the capture no bytes.
\set fill 'INSERT INTO ballast SELECT i, repeat(''-'', 100) FROM generate_series(1, 500) AS i;'

-- 1. Every kind of change, by the primary key.
BEGIN;
INSERT INTO orders VALUES (1, 'first', 10.50, '2024-02-29 12:00:00+00', '\x00ff5c', '{"a": [1, null]}');
INSERT INTO orders (id, note) VALUES (2, ''), (3, NULL), (4, E'tab\tquote''"back\\slash\nline');
UPDATE orders SET note = 'changed' WHERE id = 1;
UPDATE orders SET id = 20 WHERE id = 2;
DELETE FROM orders WHERE id = 3;
COMMIT;

-- 2. A TOASTed value: sent, left unchanged, left unchanged while the key changes.
INSERT INTO toasted VALUES (1, 0, repeat('t', 2100));
UPDATE toasted SET counter = 1;
UPDATE toasted SET id = 2;

-- 3. The other replica identities.
BEGIN;
INSERT INTO identity_full VALUES (1, NULL, 'a'), (1, NULL, 'a');
UPDATE identity_full SET c = 'b' WHERE c = 'a';
DELETE FROM identity_full;
INSERT INTO identity_nothing VALUES (1);
INSERT INTO identity_index VALUES (1, 'one', 'x');
UPDATE identity_index SET code = 'two';
DELETE FROM identity_index;
INSERT INTO no_columns DEFAULT VALUES;
COMMIT;

-- 4. Names that need quoting, and types that are not built in.
BEGIN;
INSERT INTO "Odd ""schema"".x"."Täble '1'" VALUES (1, 'two words', 'sad', 5, '{sad,"two words"}', '{{1,NULL},{2,3}}',
    ROW(1, 'r'), '[1,5)', NULL, 'identifier');
COMMIT;

-- 5. A table's shape changes under its changes.
BEGIN;
INSERT INTO shape VALUES (1, 'before');
ALTER TABLE shape ADD COLUMN added varchar(20) DEFAULT 'd';
INSERT INTO shape VALUES (2, 'after', 'new');
ALTER TABLE shape DROP COLUMN note;
INSERT INTO shape VALUES (3, 'dropped');
COMMIT;

-- 6. TRUNCATE (published from 11 on) with each of its options.
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (1, 1);
TRUNCATE child;
TRUNCATE parent, child RESTART IDENTITY;
TRUNCATE parent CASCADE;
TRUNCATE parent RESTART IDENTITY CASCADE;

-- 7. Messages (published from 14 on), inside a transaction and outside.
BEGIN;
SELECT pg_logical_emit_message(true, 'golden', 'in its transaction');
INSERT INTO orders (id) VALUES (50);
SELECT pg_logical_emit_message(false, 'golden', '\x000102'::bytea);
COMMIT;

-- 8. A transaction that came from elsewhere.
SELECT pg_replication_origin_create('golden origin');
SELECT pg_replication_origin_session_setup('golden origin');
BEGIN;
SELECT pg_replication_origin_xact_setup('0/ABCD', '2024-01-01 00:00:00+00');
INSERT INTO orders (id) VALUES (60);
COMMIT;
SELECT pg_replication_origin_session_reset();

-- 9. A transaction large enough to be streamed, with savepoints rolled back and kept.
BEGIN;
INSERT INTO orders (id, note) VALUES (100, 'streamed');
:fill
SAVEPOINT kept;
INSERT INTO orders (id, note) VALUES (101, 'in a subtransaction');
SELECT pg_logical_emit_message(true, 'golden', 'streamed');
SAVEPOINT nested;
INSERT INTO orders (id, note) VALUES (102, 'never seen');
:fill
ROLLBACK TO nested;
UPDATE orders SET note = 'after the rollback' WHERE id = 100;
DELETE FROM orders WHERE id = 101;
RELEASE kept;
ALTER TABLE shape ADD COLUMN streamed mood;
INSERT INTO shape VALUES (100, 'streamed', 'sad');
:fill
TRUNCATE child;
:fill
COMMIT;

-- 10. A streamed transaction that is rolled back, and two that interleave.
BEGIN;
INSERT INTO orders (id) VALUES (200);
:fill
ROLLBACK;
SELECT dblink_connect('other', :'dsn');
SELECT dblink_exec('other', 'BEGIN');
BEGIN;
INSERT INTO orders (id) VALUES (300);
:fill
SELECT dblink_exec('other', 'INSERT INTO orders (id) VALUES (400)');
SELECT dblink_exec('other', :'fill');
INSERT INTO orders (id) VALUES (301);
:fill
SELECT dblink_exec('other', 'INSERT INTO orders (id) VALUES (401)');
SELECT dblink_exec('other', :'fill');
COMMIT;
SELECT dblink_exec('other', 'COMMIT');
SELECT dblink_disconnect('other');

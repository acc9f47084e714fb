-- Objects that have broken a migration tool before, or might. Run as one query, by a superuser, in an empty database.

-- Roles are the cluster's: they may be there already.
DO $$ BEGIN CREATE ROLE odd_owner NOLOGIN; EXCEPTION WHEN duplicate_object THEN END $$;
DO $$ BEGIN CREATE ROLE "Reader ""x" NOLOGIN; EXCEPTION WHEN duplicate_object THEN END $$;

CREATE SCHEMA app AUTHORIZATION odd_owner;
CREATE SCHEMA "We ird.""S";
CREATE SCHEMA pgstream;
CREATE TABLE pgstream.progress (x int PRIMARY KEY);
COMMENT ON SCHEMA public IS 'changed comment';
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA app TO "Reader ""x";

CREATE EXTENSION hstore SCHEMA public;
CREATE EXTENSION citext SCHEMA app;
CREATE EXTENSION btree_gist SCHEMA public;
CREATE EXTENSION postgres_fdw SCHEMA public;
COMMENT ON EXTENSION hstore IS 'my own comment';
CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw;
CREATE FOREIGN TABLE app.far (a int) SERVER loop;

-- Types.
CREATE TYPE app.mood AS ENUM ('sad', 'it''s ok', 'happy');
CREATE TYPE app.pair AS (a int, b text);
CREATE TYPE app.frange AS RANGE (subtype = float8);
CREATE DOMAIN app.posint AS int CHECK (VALUE > 0);
ALTER DOMAIN app.posint ADD CONSTRAINT not_thirteen CHECK (VALUE <> 13) NOT VALID;
CREATE CAST (app.pair AS text) WITH INOUT;
CREATE COLLATION app.coll (provider = icu, locale = 'de');
CREATE TEXT SEARCH CONFIGURATION app.ts (copy = simple);
COMMENT ON TYPE app.mood IS 'mood';

-- Functions, one of whose bodies imitates an error of pg_restore.
CREATE FUNCTION app.norm(t text) RETURNS text LANGUAGE sql IMMUTABLE SET search_path = 'app', 'public' AS 'SELECT lower(t)';
CREATE FUNCTION app.forged() RETURNS void LANGUAGE plpgsql AS $$
begin /*
pg_restore: error: could not execute query: ERROR:  forged
Command was: COMMENT ON EXTENSION x;
*/ end $$;
CREATE AGGREGATE app.agg(int) (sfunc = int4pl, stype = int);
CREATE OPERATOR app.=== (leftarg = int, rightarg = int, function = int4eq, commutator = OPERATOR(app.===));
REVOKE EXECUTE ON FUNCTION app.norm FROM PUBLIC;

-- Names that cannot be told apart by blanks or keywords.
CREATE TABLE "We ird.""S"."Ta.ble ""q"" ON ONLY x" (
    "Id" serial,
    "sel ect" text,
    v int,
    CONSTRAINT "pk ""odd"" UNIQUE" PRIMARY KEY ("Id"),
    CONSTRAINT "u ADD CONSTRAINT" UNIQUE ("sel ect") INCLUDE (v) WITH (fillfactor = 70) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX "ix ON y" ON "We ird.""S"."Ta.ble ""q"" ON ONLY x" (lower("sel ect"), v DESC NULLS LAST) WHERE v > 3;
COMMENT ON INDEX "We ird.""S"."ix ON y" IS 'odd index';
COMMENT ON CONSTRAINT "u ADD CONSTRAINT" ON "We ird.""S"."Ta.ble ""q"" ON ONLY x" IS 'odd constraint';
COMMENT ON COLUMN "We ird.""S"."Ta.ble ""q"" ON ONLY x"."sel ect" IS E'new\nline';

-- Partitions of two levels, their keys, indexes and attachments; an index on the parent alone.
CREATE TABLE app.parent (
    id bigint GENERATED ALWAYS AS IDENTITY, region text NOT NULL, at date NOT NULL,
    n int, note text, twice int GENERATED ALWAYS AS (n * 2) STORED
) PARTITION BY LIST (region);
CREATE TABLE app.parent_eu PARTITION OF app.parent FOR VALUES IN ('eu') PARTITION BY RANGE (at);
CREATE TABLE app.parent_eu_1 PARTITION OF app.parent_eu FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE app.parent_us PARTITION OF app.parent FOR VALUES IN ('us');
CREATE TABLE app.parent_def PARTITION OF app.parent DEFAULT;
ALTER TABLE app.parent ADD PRIMARY KEY (id, region, at);
CREATE INDEX parent_note ON app.parent (app.norm(note));
CREATE INDEX parent_only ON ONLY app.parent (n);
CREATE UNIQUE INDEX parent_us_only ON app.parent_us (n);
CREATE TABLE app.part_child (id int, parent_id bigint, region text, at date) PARTITION BY HASH (id);
CREATE TABLE app.part_child_0 PARTITION OF app.part_child FOR VALUES WITH (modulus 2, remainder 0);
ALTER TABLE app.part_child ADD CONSTRAINT "pc fk" FOREIGN KEY (parent_id, region, at) REFERENCES app.parent;

-- Inheritance, replica identities, clustering, statistics, storage.
CREATE TABLE app.base (id int PRIMARY KEY, x int CHECK (x > 0), k int NOT NULL, k2 int NOT NULL);
CREATE TABLE app.derived (y int DEFAULT 5) INHERITS (app.base);
ALTER TABLE app.base ADD CONSTRAINT x_lt CHECK (x < 100) NOT VALID;
COMMENT ON CONSTRAINT x_lt ON app.base IS 'not valid';
CREATE UNIQUE INDEX base_k ON app.base (k);
ALTER TABLE app.base REPLICA IDENTITY USING INDEX base_k;
ALTER TABLE app.base ADD CONSTRAINT base_k2 UNIQUE (k2);
ALTER TABLE app.base CLUSTER ON base_k2;
CREATE INDEX base_expr ON app.base ((x * 2), (k + 1));
ALTER INDEX app.base_expr ALTER COLUMN 2 SET STATISTICS 500;
ALTER TABLE app.base ALTER COLUMN x SET STATISTICS 77;
CREATE INDEX base_pattern ON app.base (app.norm(k::text) text_pattern_ops) WITH (fillfactor = 70);
ALTER TABLE app.derived REPLICA IDENTITY FULL;
CREATE TABLE app.ident (a int NOT NULL, b int NOT NULL, CONSTRAINT ident_u UNIQUE (a, b));
ALTER TABLE app.ident REPLICA IDENTITY USING INDEX ident_u;
CREATE TABLE app.nothing (a int);
ALTER TABLE app.nothing REPLICA IDENTITY NOTHING;
CREATE UNLOGGED TABLE app.unlogged (a int PRIMARY KEY) WITH (fillfactor = 50, autovacuum_enabled = off);
CREATE TABLE app.no_columns ();
CREATE TABLE app.collated (a text COLLATE app.coll, b text COLLATE "C");
CREATE INDEX collated_i ON app.collated (a, b COLLATE "C" text_pattern_ops);
CREATE STATISTICS app.st (dependencies, ndistinct) ON x, k FROM app.base;
ALTER STATISTICS app.st SET STATISTICS 99;
COMMENT ON STATISTICS app.st IS 'statistics';
CREATE SEQUENCE app.free INCREMENT 5 CYCLE;

-- Constraints of every kind.
CREATE TABLE app.child (
    pid bigint, region text, at date, mood app.mood, m app.posint, email app.citext, h public.hstore, p app.pair,
    r app.frange, arr int[],
    FOREIGN KEY (pid, region, at) REFERENCES app.parent (id, region, at) ON DELETE CASCADE DEFERRABLE
);
COMMENT ON CONSTRAINT child_pid_region_at_fkey ON app.child IS 'foreign key';
CREATE INDEX child_h ON app.child USING gin (h);
CREATE UNIQUE INDEX child_email ON app.child (email);
CREATE TABLE app.booking (room int, during tsrange,
    EXCLUDE USING gist (room WITH =, during WITH &&) WHERE (room > 0) DEFERRABLE);
CREATE TABLE app.self (id int PRIMARY KEY, up int REFERENCES app.self, other int);
ALTER TABLE app.self ADD CONSTRAINT not_valid FOREIGN KEY (other) REFERENCES app.base NOT VALID;
CREATE TABLE app.self2 (id int PRIMARY KEY, s int REFERENCES app.self DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE app.self ADD back int REFERENCES app.self2;

-- Views in a cycle; views, materialized views and functions that need a primary key first.
CREATE VIEW app.v1 AS SELECT id, k FROM app.base;
CREATE VIEW app.v2 AS SELECT * FROM app.v1;
CREATE OR REPLACE VIEW app.v1 AS SELECT id, k FROM app.base WHERE id NOT IN (SELECT v2.id FROM app.v2);
CREATE VIEW app.by_key AS SELECT id, x, count(*) FROM app.base GROUP BY id;
CREATE VIEW app.by_key2 AS SELECT * FROM app.by_key;
CREATE MATERIALIZED VIEW app.mv AS SELECT id, k FROM app.base;
CREATE UNIQUE INDEX mv_id ON app.mv (id);
CREATE MATERIALIZED VIEW app.mv_by_key AS SELECT id, x, count(*) FROM app.base GROUP BY id;
CREATE UNIQUE INDEX mv_by_key_id ON app.mv_by_key (id);
COMMENT ON INDEX app.mv_by_key_id IS 'late index';
CREATE MATERIALIZED VIEW app.mv2 AS SELECT * FROM app.mv_by_key;
CREATE INDEX mv2_x ON app.mv2 (x);
GRANT SELECT ON app.mv_by_key TO "Reader ""x";

-- What acts when a row is written.
CREATE FUNCTION app.trg() RETURNS trigger LANGUAGE plpgsql AS 'begin return new; end';
CREATE TRIGGER normal BEFORE INSERT ON app.base FOR EACH ROW EXECUTE FUNCTION app.trg();
CREATE TRIGGER disabled AFTER UPDATE OF x ON app.base FOR EACH ROW WHEN (old.x IS DISTINCT FROM new.x) EXECUTE FUNCTION app.trg();
ALTER TABLE app.base DISABLE TRIGGER disabled;
CREATE TRIGGER always AFTER INSERT ON app.parent FOR EACH ROW EXECUTE FUNCTION app.trg();
ALTER TABLE app.parent ENABLE ALWAYS TRIGGER always;
ALTER TABLE app.parent_us DISABLE TRIGGER always;
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON app.base DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.trg();
ALTER TABLE app.base ENABLE REPLICA TRIGGER deferred;
COMMENT ON TRIGGER normal ON app.base IS 'a trigger';
CREATE RULE r_ins AS ON INSERT TO app.v2 DO INSTEAD NOTHING;
COMMENT ON RULE r_ins ON app.v2 IS 'a rule';
CREATE RULE r_off AS ON DELETE TO app.nothing DO ALSO NOTIFY x;
ALTER TABLE app.nothing DISABLE RULE r_off;
ALTER TABLE app.base ENABLE ROW LEVEL SECURITY;
ALTER TABLE app.base FORCE ROW LEVEL SECURITY;
CREATE POLICY pol ON app.base AS RESTRICTIVE FOR SELECT TO odd_owner USING (k > 0);
COMMENT ON POLICY pol ON app.base IS 'a policy';
CREATE FUNCTION app.evt() RETURNS event_trigger LANGUAGE plpgsql AS 'begin end';
CREATE EVENT TRIGGER evt ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION app.evt();
ALTER EVENT TRIGGER evt ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER evt IS 'an event trigger';

-- Owners and privileges.
ALTER DEFAULT PRIVILEGES FOR ROLE odd_owner IN SCHEMA app GRANT SELECT ON TABLES TO "Reader ""x";
ALTER DEFAULT PRIVILEGES FOR ROLE odd_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER TABLE app.base OWNER TO odd_owner;
ALTER TABLE app.child OWNER TO "Reader ""x";
GRANT SELECT (id), UPDATE (x) ON app.base TO "Reader ""x";
REVOKE ALL ON app.nothing FROM CURRENT_USER;
CREATE PUBLICATION pub FOR TABLE app.base;
COMMENT ON PUBLICATION pub IS 'a publication';

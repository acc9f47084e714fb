-- The tables of the golden streams, and what is published of them.
CREATE EXTENSION dblink;
CREATE SCHEMA "Odd ""schema"".x";
CREATE TYPE mood AS ENUM ('sad', 'two words');
CREATE DOMAIN small AS int CHECK (VALUE < 10);
CREATE TYPE pair AS (number int, word text);

CREATE TABLE orders (id int PRIMARY KEY, note text, price numeric(8, 2), placed timestamptz, raw bytea, doc jsonb);
CREATE TABLE toasted (id int PRIMARY KEY, counter int, big text);
ALTER TABLE toasted ALTER COLUMN big SET STORAGE EXTERNAL;
CREATE TABLE identity_full (a int, b json, c text);
ALTER TABLE identity_full REPLICA IDENTITY FULL;
CREATE TABLE identity_nothing (a int PRIMARY KEY);
ALTER TABLE identity_nothing REPLICA IDENTITY NOTHING;
CREATE TABLE identity_index (id int, code text NOT NULL UNIQUE, note text);
ALTER TABLE identity_index REPLICA IDENTITY USING INDEX identity_index_code_key;
CREATE TABLE no_columns ();
CREATE TABLE "Odd ""schema"".x"."Täble '1'" (
    "Key Column" int PRIMARY KEY, "select" varchar(30), mood mood, small small, moods mood[], matrix int[], pair pair,
    span int4range, of_catalog pg_catalog.pg_tables, standard information_schema.sql_identifier);
CREATE TABLE shape (id int PRIMARY KEY, note text);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
CREATE TABLE ballast (id int, filler text);

CREATE PUBLICATION "Gold ""en"" it's" FOR TABLE orders, toasted, identity_full, identity_nothing, identity_index,
    no_columns, "Odd ""schema"".x"."Täble '1'", shape, parent, child;

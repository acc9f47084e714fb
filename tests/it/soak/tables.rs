//! Awkward tables, and what writers do to them.
//!
//! Hazard: a table that nobody changes, or whose every statement fails, proves nothing; the writers count what
//! touched rows, and the soak looks at the counts.

/// A table, or a few that belong together.
pub(super) struct Shape {
    /// Its first table.
    pub(super) name: &'static str,
    /// The oldest server that knows what it is made of.
    pub(super) since: u32,
    pub(super) ddl: &'static str,
    /// Statements; `$K` and `$J` are keys, `$N` a number, `$T` a short text or NULL, `$B` a text too long for its row.
    pub(super) acts: &'static [&'static str],
}

const fn shape(name: &'static str, ddl: &'static str, acts: &'static [&'static str]) -> Shape {
    Shape { name, since: 10, ddl, acts }
}

/// Statements of several parts run in one transaction anyway: whatever a writer does, it does between BEGIN and COMMIT.
pub(super) const SHAPES: &[Shape] = &[
    shape(
        "plain",
        "CREATE TABLE plain (id int PRIMARY KEY, v int, note text)",
        &[
            "INSERT INTO plain VALUES ($K, $N, $T)",
            "UPDATE plain SET v = v + 1 WHERE id = $K",
            "UPDATE plain SET note = $T WHERE id BETWEEN $K AND $K + 5",
            "DELETE FROM plain WHERE id = $K",
            // Large enough to be streamed before it ends.
            "INSERT INTO plain SELECT i, $N, $T FROM generate_series(100000, 102500) AS i ON CONFLICT (id) DO UPDATE SET v = $N",
            "DELETE FROM plain WHERE id >= 100000",
        ],
    ),
    shape(
        "swap",
        "CREATE TABLE swap (id int PRIMARY KEY, rank int NOT NULL UNIQUE)",
        &[
            "INSERT INTO swap VALUES ($K, $K)",
            "INSERT INTO swap VALUES ($K, $J)",
            "UPDATE swap SET rank = -rank WHERE id IN ($K, $J);
             UPDATE swap AS a SET rank = -b.rank FROM swap AS b
              WHERE (a.id, b.id) IN (($K, $J), ($J, $K)) AND a.rank < 0 AND b.rank < 0;
             UPDATE swap SET rank = -rank WHERE rank < 0",
            "UPDATE swap SET rank = 100000 WHERE id = $K;
             UPDATE swap SET rank = $K + 200000 WHERE id = $J;
             UPDATE swap SET rank = $J + 300000 WHERE id = $K",
            "DELETE FROM swap WHERE id = $K; INSERT INTO swap VALUES ($K, $J) ON CONFLICT DO NOTHING",
            "DELETE FROM swap WHERE rank > 1000",
        ],
    ),
    shape(
        "swap_deferred",
        "CREATE TABLE swap_deferred (id int PRIMARY KEY, rank int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        &[
            "INSERT INTO swap_deferred SELECT i, i FROM generate_series($K, $K + 4) AS i ON CONFLICT (id) DO NOTHING",
            "UPDATE swap_deferred AS a SET rank = b.rank FROM swap_deferred AS b
              WHERE (a.id, b.id) IN (($K, $J), ($J, $K))",
            "UPDATE swap_deferred SET rank = rank + 1",
            "DELETE FROM swap_deferred WHERE id = $K",
        ],
    ),
    shape(
        "reused",
        "CREATE TABLE reused (id int PRIMARY KEY, generation int NOT NULL, note text)",
        &[
            "DELETE FROM reused WHERE id = $K; INSERT INTO reused VALUES ($K, $N, $T)",
            "INSERT INTO reused VALUES ($K, 0, $T); UPDATE reused SET generation = 1 WHERE id = $K; DELETE FROM reused WHERE id = $K",
            "INSERT INTO reused VALUES ($K, $N, 'again') ON CONFLICT (id) DO UPDATE SET generation = reused.generation + 1",
            "DELETE FROM reused WHERE id = $K",
        ],
    ),
    shape(
        "rekeyed",
        "CREATE TABLE rekeyed (id int PRIMARY KEY, v int, body text);
         ALTER TABLE rekeyed ALTER body SET STORAGE EXTERNAL",
        &[
            "INSERT INTO rekeyed VALUES ($K, $N, $B)",
            "UPDATE rekeyed SET id = $J WHERE id = $K",
            "UPDATE rekeyed SET id = id + 1000 WHERE id = $K; UPDATE rekeyed SET id = id - 1000 WHERE id > 1000",
            "UPDATE rekeyed SET id = -id WHERE id = $K; UPDATE rekeyed SET id = $K WHERE id = $J; UPDATE rekeyed SET id = $J WHERE id = -$K",
            "UPDATE rekeyed SET v = $N WHERE id = $K",
            "DELETE FROM rekeyed WHERE id = $K",
        ],
    ),
    shape(
        "child_deferred",
        "CREATE TABLE parent_deferred (id int PRIMARY KEY);
         CREATE TABLE child_deferred (id int PRIMARY KEY,
             parent int REFERENCES parent_deferred DEFERRABLE INITIALLY DEFERRED)",
        &[
            "INSERT INTO child_deferred VALUES ($K, $J); INSERT INTO parent_deferred VALUES ($J) ON CONFLICT DO NOTHING",
            "UPDATE child_deferred SET parent = $J WHERE id = $K",
            "DELETE FROM child_deferred WHERE id = $K",
            "DELETE FROM parent_deferred WHERE id = $K; DELETE FROM child_deferred WHERE parent = $K",
        ],
    ),
    shape(
        "child_cascade",
        "CREATE TABLE parent_cascade (id int PRIMARY KEY, v int);
         CREATE TABLE child_cascade (id int PRIMARY KEY,
             parent int REFERENCES parent_cascade ON DELETE CASCADE ON UPDATE CASCADE)",
        &[
            "INSERT INTO parent_cascade VALUES ($K, $N)",
            "INSERT INTO child_cascade VALUES ($J, $K)",
            "DELETE FROM parent_cascade WHERE id = $K",
            "UPDATE parent_cascade SET id = $J WHERE id = $K",
            "TRUNCATE parent_cascade CASCADE",
        ],
    ),
    shape(
        "booking",
        "CREATE TABLE booking (id int PRIMARY KEY, during int4range NOT NULL,
             EXCLUDE USING gist (during WITH &&))",
        &[
            "INSERT INTO booking VALUES ($K, int4range($J, $J + 3))",
            "UPDATE booking SET during = int4range($J, $J + 3) WHERE id = $K",
            "DELETE FROM booking WHERE id = $K; INSERT INTO booking VALUES ($K + 1000, int4range($J, $J + 2))",
            "DELETE FROM booking WHERE during && int4range($J, $J + 10)",
        ],
    ),
    shape(
        "booking_deferred",
        "CREATE TABLE booking_deferred (id int PRIMARY KEY, during int4range NOT NULL,
             EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED)",
        &[
            "INSERT INTO booking_deferred VALUES ($K, int4range($J * 3, $J * 3 + 3))",
            "UPDATE booking_deferred SET during = int4range(lower(during) + 3, upper(during) + 3)",
            "DELETE FROM booking_deferred WHERE id = $K",
        ],
    ),
    shape(
        "partial_unique",
        "CREATE TABLE partial_unique (id int PRIMARY KEY, owner int, active boolean NOT NULL);
         CREATE UNIQUE INDEX ON partial_unique (owner) WHERE active",
        &[
            "INSERT INTO partial_unique VALUES ($K, $J % 7, false)",
            "UPDATE partial_unique SET active = false WHERE owner = $J % 7; UPDATE partial_unique SET active = true
              WHERE id = (SELECT min(id) FROM partial_unique WHERE owner = $J % 7 AND id >= $K)",
            "UPDATE partial_unique SET owner = $K % 7 WHERE id = $J",
            "DELETE FROM partial_unique WHERE id = $K",
        ],
    ),
    shape(
        "expression_unique",
        "CREATE TABLE expression_unique (id int PRIMARY KEY, email text);
         CREATE UNIQUE INDEX ON expression_unique (lower(email))",
        &[
            "INSERT INTO expression_unique VALUES ($K, 'User' || $J)",
            "UPDATE expression_unique SET email = upper(email) WHERE id = $K",
            "DELETE FROM expression_unique WHERE lower(email) = 'user' || $J; INSERT INTO expression_unique VALUES ($K + 500, 'USER' || $J)",
            "UPDATE expression_unique SET email = NULL WHERE id = $J; UPDATE expression_unique SET email = 'user' || $J WHERE id = $K",
            "DELETE FROM expression_unique WHERE id > 500",
        ],
    ),
    Shape {
        name: "nulls_alike",
        since: 15,
        ddl: "CREATE TABLE nulls_alike (id int PRIMARY KEY, a int, b int, UNIQUE NULLS NOT DISTINCT (a, b))",
        acts: &[
            "INSERT INTO nulls_alike VALUES ($K, NULL, $J % 9)",
            "INSERT INTO nulls_alike VALUES ($K, $J % 9, NULL)",
            "UPDATE nulls_alike SET a = NULL, b = $J % 9 WHERE id = $K",
            "DELETE FROM nulls_alike WHERE a IS NULL AND b = $J % 9; INSERT INTO nulls_alike VALUES ($K + 500, NULL, $J % 9)",
            "DELETE FROM nulls_alike WHERE id = $K",
        ],
    },
    shape(
        "twins",
        "CREATE TABLE twins (a int, b text); ALTER TABLE twins REPLICA IDENTITY FULL",
        &[
            "INSERT INTO twins VALUES ($K % 5, $T), ($K % 5, $T), ($K % 5, NULL)",
            "UPDATE twins SET b = $T WHERE ctid = (SELECT ctid FROM twins WHERE a = $K % 5 LIMIT 1)",
            "UPDATE twins SET a = ($J % 5) WHERE a = $K % 5",
            "DELETE FROM twins WHERE ctid IN (SELECT ctid FROM twins WHERE a = $K % 5 LIMIT 2)",
            "DELETE FROM twins WHERE a = $K % 5",
        ],
    ),
    shape(
        "twins_odd",
        "CREATE TABLE twins_odd (j json, p point, n numeric, body text); ALTER TABLE twins_odd REPLICA IDENTITY FULL;
         ALTER TABLE twins_odd ALTER body SET STORAGE EXTERNAL",
        &[
            r#"INSERT INTO twins_odd VALUES ('{"k":  $K}', '($K,1)', ($K % 3 || '.0')::numeric, $B)"#,
            r#"INSERT INTO twins_odd VALUES ('{"k":$K}', NULL, ($K % 3 || '.00')::numeric, NULL)"#,
            "UPDATE twins_odd SET p = '(0,$N)' WHERE ctid = (SELECT ctid FROM twins_odd WHERE n = $K % 3 LIMIT 1)",
            "UPDATE twins_odd SET body = $B WHERE ctid = (SELECT ctid FROM twins_odd WHERE n = $K % 3 LIMIT 1)",
            "DELETE FROM twins_odd WHERE ctid IN (SELECT ctid FROM twins_odd WHERE n = $K % 3 LIMIT 3)",
        ],
    ),
    shape(
        "listed",
        "CREATE TABLE listed (id int, region text, v int) PARTITION BY LIST (region);
         CREATE TABLE listed_north PARTITION OF listed (PRIMARY KEY (id, region)) FOR VALUES IN ('n');
         CREATE TABLE listed_south PARTITION OF listed (PRIMARY KEY (id, region)) FOR VALUES IN ('s')",
        &[
            "INSERT INTO listed VALUES ($K, 'n', $N)",
            "INSERT INTO listed VALUES ($K, 's', $N)",
            "UPDATE listed_north SET v = $N WHERE id = $K",
            "DELETE FROM listed_south WHERE id = $K; INSERT INTO listed VALUES ($K, 'n', $N) ON CONFLICT DO NOTHING",
            "DELETE FROM listed WHERE id = $K",
            "TRUNCATE listed_south",
        ],
    ),
    Shape {
        name: "hashed",
        since: 11,
        ddl: "CREATE TABLE hashed (id int PRIMARY KEY, v int, note text) PARTITION BY HASH (id);
              CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
              CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1) PARTITION BY RANGE (id);
              CREATE TABLE hashed_1_low PARTITION OF hashed_1 FOR VALUES FROM (MINVALUE) TO (30);
              CREATE TABLE hashed_1_high PARTITION OF hashed_1 FOR VALUES FROM (30) TO (MAXVALUE)",
        acts: &[
            "INSERT INTO hashed VALUES ($K, $N, $T)",
            "UPDATE hashed SET id = $J WHERE id = $K",
            "UPDATE hashed SET v = v + 1, note = $T WHERE id > $K",
            "DELETE FROM hashed WHERE id = $K",
            "TRUNCATE hashed",
        ],
    },
    shape(
        "ancestor",
        "CREATE TABLE ancestor (id int PRIMARY KEY, v int);
         CREATE TABLE heir (extra text, PRIMARY KEY (id)) INHERITS (ancestor)",
        &[
            "INSERT INTO ancestor VALUES ($K, $N)",
            "INSERT INTO heir VALUES ($K, $N, $T)",
            "UPDATE ancestor SET v = $N WHERE id = $K",
            "DELETE FROM ancestor WHERE id = $K",
            "TRUNCATE ONLY ancestor",
        ],
    ),
    shape(
        "toasted",
        "CREATE TABLE toasted (id int PRIMARY KEY, n int, a text, b text);
         ALTER TABLE toasted ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL",
        &[
            "INSERT INTO toasted VALUES ($K, $N, $B, $B)",
            "UPDATE toasted SET n = n + 1 WHERE id = $K",
            "UPDATE toasted SET a = $B WHERE id = $K",
            "UPDATE toasted SET b = $B WHERE id = $K; UPDATE toasted SET n = 0 WHERE id = $K",
            "UPDATE toasted SET a = NULL, b = '' WHERE id = $K",
            "DELETE FROM toasted WHERE id = $K; INSERT INTO toasted VALUES ($K, 7, $B, $T); UPDATE toasted SET n = 8 WHERE id = $K",
            "DELETE FROM toasted WHERE id = $K",
        ],
    ),
    shape(
        "toasted_key",
        "CREATE TABLE toasted_key (k text PRIMARY KEY, v int); ALTER TABLE toasted_key ALTER k SET STORAGE EXTERNAL",
        &[
            "INSERT INTO toasted_key VALUES (repeat(md5('$K'), 66), $N)",
            "UPDATE toasted_key SET v = $N WHERE k = repeat(md5('$K'), 66)",
            "UPDATE toasted_key SET k = repeat(md5('$J'), 66) WHERE k = repeat(md5('$K'), 66)",
            "DELETE FROM toasted_key WHERE k = repeat(md5('$K'), 66)",
        ],
    ),
    Shape {
        name: "generated",
        since: 12,
        ddl: "CREATE TABLE generated (a int, twice int GENERATED ALWAYS AS (a * 2) STORED, id int PRIMARY KEY)",
        acts: &[
            "INSERT INTO generated (id, a) VALUES ($K, $N)",
            "UPDATE generated SET a = $N WHERE id = $K",
            "DELETE FROM generated WHERE id = $K",
        ],
    },
    shape(
        "identity_key",
        "CREATE TABLE identity_key (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int)",
        &[
            "INSERT INTO identity_key (v) VALUES ($N), ($N)",
            "UPDATE identity_key SET v = $J WHERE id % 50 = $K % 50",
            "UPDATE identity_key SET id = DEFAULT WHERE id % 50 = $K % 50",
            "DELETE FROM identity_key WHERE id % 50 = $K % 50",
        ],
    ),
    shape(
        "identity_aside",
        "CREATE TABLE identity_aside (id int PRIMARY KEY, seen bigint GENERATED ALWAYS AS IDENTITY, v int, body text);
         ALTER TABLE identity_aside ALTER body SET STORAGE EXTERNAL",
        &[
            "INSERT INTO identity_aside (id, v, body) VALUES ($K, $N, $B)",
            "INSERT INTO identity_aside OVERRIDING SYSTEM VALUE VALUES ($K, $N, $N, $T)",
            "UPDATE identity_aside SET seen = DEFAULT, v = $N, body = $T WHERE id = $K",
            "UPDATE identity_aside SET v = $N, body = $T WHERE id = $K",
            "DELETE FROM identity_aside WHERE id = $K",
        ],
    ),
    shape(
        "by_index",
        r#"CREATE TABLE by_index (b text, "Key" int NOT NULL, v int);
           CREATE UNIQUE INDEX by_index_key ON by_index ("Key");
           ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_key"#,
        &[
            "INSERT INTO by_index VALUES ($T, $K, $N)",
            r#"UPDATE by_index SET v = $N WHERE "Key" = $K"#,
            r#"UPDATE by_index SET "Key" = $J WHERE "Key" = $K"#,
            r#"DELETE FROM by_index WHERE "Key" = $K"#,
        ],
    ),
    shape(
        "full_with_key",
        "CREATE TABLE full_with_key (id int PRIMARY KEY, v int, body text, CHECK (v <> -7));
         ALTER TABLE full_with_key REPLICA IDENTITY FULL; ALTER TABLE full_with_key ALTER body SET STORAGE EXTERNAL",
        &[
            "INSERT INTO full_with_key VALUES ($K, $N, $B)",
            "UPDATE full_with_key SET v = v + 1 WHERE id = $K",
            "UPDATE full_with_key SET id = $J, v = $N WHERE id = $K",
            "UPDATE full_with_key SET body = $B WHERE id BETWEEN $K AND $K + 3",
            "DELETE FROM full_with_key WHERE id = $K",
        ],
    ),
    shape(
        "composite_key",
        r#"CREATE TABLE composite_key (u uuid, at timestamptz, "the name" text COLLATE "C", v int, PRIMARY KEY ("the name", at, u))"#,
        &[
            "INSERT INTO composite_key VALUES (md5('$K')::uuid, to_timestamp($J % 3), 'n''\"' || $K % 4, $N)",
            "UPDATE composite_key SET v = $N WHERE u = md5('$K')::uuid",
            "UPDATE composite_key SET at = at + '1 us' WHERE u = md5('$K')::uuid",
            "DELETE FROM composite_key WHERE u = md5('$K')::uuid",
        ],
    ),
    shape(
        "numeric_key",
        "CREATE TABLE numeric_key (k numeric PRIMARY KEY, v int)",
        &[
            "INSERT INTO numeric_key VALUES ($K % 9, $N)",
            "INSERT INTO numeric_key VALUES (($K % 9 || '.00')::numeric, $N)",
            "UPDATE numeric_key SET k = k + 0.0 WHERE k = $K % 9",
            "UPDATE numeric_key SET v = $N WHERE k = $K % 9",
            "DELETE FROM numeric_key WHERE k = $K % 9",
            "DELETE FROM numeric_key WHERE k = $K % 9; INSERT INTO numeric_key VALUES (($K % 9 || '.0')::numeric, $N)",
        ],
    ),
    shape(
        "float_key",
        "CREATE TABLE float_key (k float8 PRIMARY KEY, v int)",
        &[
            "INSERT INTO float_key VALUES ('-0', $N)",
            "INSERT INTO float_key VALUES ('0', $N)",
            "INSERT INTO float_key VALUES ('NaN', $N)",
            "UPDATE float_key SET v = $N",
            "UPDATE float_key SET k = -k WHERE k = 0",
            "DELETE FROM float_key WHERE k = 0",
            "DELETE FROM float_key WHERE k = 'NaN'",
        ],
    ),
    shape(
        "citext_key",
        "CREATE EXTENSION citext; CREATE TABLE citext_key (k citext PRIMARY KEY, v int)",
        &[
            "INSERT INTO citext_key VALUES ('Key' || $K % 9, $N)",
            "INSERT INTO citext_key VALUES ('kEY' || $K % 9, $N)",
            "UPDATE citext_key SET k = upper(k::text) WHERE k = ('key' || $K % 9)::citext",
            "UPDATE citext_key SET v = $N WHERE k = ('key' || $K % 9)::citext",
            "DELETE FROM citext_key WHERE k = ('key' || $K % 9)::citext; INSERT INTO citext_key VALUES ('KeY' || $K % 9, $N)",
        ],
    ),
    shape(
        "types",
        r#"CREATE EXTENSION hstore;
           CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"', 'NULL');
           CREATE DOMAIN short AS varchar(12) CHECK (VALUE <> 'forbidden');
           CREATE DOMAIN numbers AS int[];
           CREATE TYPE pair AS (a int, "B b" text, c text[]);
           CREATE TABLE types (id int PRIMARY KEY, b boolean, i2 int2, f4 float4, n numeric(10, 2), c char(5), by bytea,
               vb varbit(9), d date, ttz timetz, ts timestamp, tstz timestamptz, iv interval, u uuid, jb jsonb, x xml,
               cidr cidr, tsv tsvector, md mood, sh short, ns numbers, pr pair, ir int4range, ia int[], ta text[],
               ma mood[], pa pair[], h hstore, m money, body jsonb)"#,
        &[
            r#"INSERT INTO types VALUES ($K, true, $N, 0.1, $N, 'ab', '\x00ff5c', '101', '0044-03-15 BC', '12:00+05:30', 'infinity',
                '2024-02-29 12:34:56.789+00', '1 year -2 days 03:00', md5('$N')::uuid, '{"a": 1.00}', '<a>x &amp; y</a>',
                '10.0.0.0/8', '''it''''s'':1 fat:2', 'it''s "ok"', 'dom,"ain', '{1,NULL,3}', ROW(1, 'a "b",c', '{x,NULL,"NULL"}'),
                '[1,10)', '[2:3]={7,8}', '{"NULL",NULL,"","a\\b","{x}"}', '{sad,NULL,"NULL"}', ARRAY[ROW(1,'x',NULL)::pair, NULL],
                'a=>"1", b=>NULL', '$1,234.50', to_jsonb($B))"#,
            "INSERT INTO types (id, ta, ns, pa) VALUES ($K, '{}', '{}', '{}')",
            "UPDATE types SET i2 = $N, n = $N, md = 'NULL', ia = ARRAY[$N, NULL], pr = ROW($N, $T, NULL) WHERE id = $K",
            "UPDATE types SET body = to_jsonb($B) WHERE id = $K",
            "UPDATE types SET (ta, h, sh) = (ARRAY[$T, $T], NULL, $N || 'x') WHERE id >= $K",
            "DELETE FROM types WHERE id = $K",
        ],
    ),
    shape(
        "triggered",
        "CREATE TABLE triggered (id int PRIMARY KEY, note text, digest text);
         CREATE FUNCTION digest_note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN NEW.digest := pg_catalog.md5(NEW.note); RETURN NEW; END $$;
         CREATE TRIGGER digest BEFORE INSERT OR UPDATE ON triggered FOR EACH ROW EXECUTE PROCEDURE digest_note();
         ALTER TABLE triggered ENABLE ALWAYS TRIGGER digest",
        &[
            "INSERT INTO triggered VALUES ($K, $T)",
            "UPDATE triggered SET note = $T WHERE id >= $K",
            "DELETE FROM triggered WHERE id = $K",
        ],
    ),
    shape(
        "insert_only",
        "CREATE TABLE insert_only (at timestamptz DEFAULT now(), n int); ALTER TABLE insert_only REPLICA IDENTITY NOTHING",
        &["INSERT INTO insert_only VALUES (DEFAULT, $N), (DEFAULT, NULL)", "TRUNCATE insert_only"],
    ),
    shape(
        "Odd \"Table",
        r#"CREATE TABLE "Odd ""Table" ("gone soon" int, "select" int PRIMARY KEY, "Ümlaut" text, ctid_ int);
           ALTER TABLE "Odd ""Table" DROP "gone soon""#,
        &[
            r#"INSERT INTO "Odd ""Table" VALUES ($K, $T, $N)"#,
            r#"UPDATE "Odd ""Table" SET "Ümlaut" = $T WHERE "select" = $K"#,
            r#"DELETE FROM "Odd ""Table" WHERE "select" = $K"#,
        ],
    ),
    shape(
        "truncated",
        "CREATE TABLE truncated (id serial PRIMARY KEY, v int); CREATE TABLE truncated_too (id int PRIMARY KEY, v int)",
        &[
            "INSERT INTO truncated (v) SELECT i FROM generate_series(1, $K) AS i",
            "INSERT INTO truncated_too VALUES ($K, $N)",
            "UPDATE truncated SET v = v + 1 WHERE id % 10 = $K % 10",
            "UPDATE truncated_too SET v = v + 1",
            "TRUNCATE truncated RESTART IDENTITY; INSERT INTO truncated (v) VALUES ($N)",
            "TRUNCATE truncated, truncated_too",
        ],
    ),
    shape(
        "hot",
        "CREATE TABLE hot (id int PRIMARY KEY, v int); INSERT INTO hot SELECT i, 0 FROM generate_series(1, 3) AS i",
        &["UPDATE hot SET v = v + 1 WHERE id = 1 + $K % 3", "UPDATE hot SET v = v - 1"],
    ),
    shape(
        "wide_counter",
        "CREATE TABLE wide_counter (id bigint PRIMARY KEY, a int, b int, c int, d int, e int, f int, note text);
         CREATE INDEX ON wide_counter (a, b); CREATE INDEX ON wide_counter (note)",
        &[
            "INSERT INTO wide_counter VALUES ($K, 1, 2, 3, 4, 5, 6, $T)",
            "UPDATE wide_counter SET a = a + 1, f = $N WHERE id = $K",
            "UPDATE wide_counter SET b = b + 1",
            "DELETE FROM wide_counter WHERE id = $K",
        ],
    ),
];

//! The SQL that makes each data set. No two rows alike, and nothing that compresses away.

/// Tables made before a commit, so that their locks fit into any server's table of them.
const BETWEEN_COMMITS: u64 = 250;

const MIXED_COLUMNS: &str = "id bigint NOT NULL, customer integer NOT NULL, at timestamptz NOT NULL, \
     amount numeric(12, 2) NOT NULL, status text NOT NULL, token text NOT NULL";
const MIXED_ROWS: &str = "SELECT n, n % 100000, timestamptz '2024-01-01 00:00:00+00' + n * interval '1 second', \
     (n % 1000000) / 100.0, (ARRAY['new', 'paid', 'sent', 'back'])[1 + n % 4], md5(n::text)";

/// One table with a primary key and two indexes.
pub(super) fn mixed(rows: u64) -> Vec<String> {
    vec![
        format!("CREATE TABLE public.mixed ({MIXED_COLUMNS})"),
        format!("INSERT INTO public.mixed {MIXED_ROWS} FROM generate_series(1, {rows}::bigint) AS n"),
        "ALTER TABLE public.mixed ADD PRIMARY KEY (id)".to_owned(),
        "CREATE INDEX ON public.mixed (customer)".to_owned(),
        "CREATE INDEX ON public.mixed (at)".to_owned(),
    ]
}

/// Documents of 1 to 8 kB: most rows lie in TOAST.
pub(super) fn wide(rows: u64) -> Vec<String> {
    vec![
        "CREATE TABLE public.wide (id bigint NOT NULL, at timestamptz NOT NULL, document jsonb NOT NULL, body text \
         NOT NULL)"
            .to_owned(),
        // Cut out of noise: hashing every byte of a gigabyte would take longer than all that is measured.
        "CREATE TEMPORARY TABLE noise AS SELECT n AS id, (SELECT string_agg(md5(n || '/' || k), '') \
         FROM generate_series(1, 256) AS k) AS text FROM generate_series(0, 63) AS n"
            .to_owned(),
        format!(
            "INSERT INTO public.wide SELECT n, timestamptz '2024-01-01 00:00:00+00' + n * interval '1 second', \
             jsonb_build_object('n', n, 'even', n % 2 = 0, 'tags', ARRAY['a', 'b', (n % 17)::text], 'text', \
             substr(text, (n % 150)::integer + 1, 300 + (n * 37 % 3200)::integer)), \
             n || substr(text, (n % 90)::integer + 1, 500 + (n * 53 % 4300)::integer) \
             FROM generate_series(1, {rows}::bigint) AS n JOIN noise ON noise.id = n % 64"
        ),
        "ALTER TABLE public.wide ADD PRIMARY KEY (id)".to_owned(),
    ]
}

/// 200 tables whose sizes follow a power law, three indexes each, most with a foreign key.
pub(super) fn schema(rows: u64) -> Vec<String> {
    // Within format(), where a percent sign is doubled.
    let mixed_rows = MIXED_ROWS.replace('%', "%%");
    vec![
        format!(
            "DO $$ BEGIN FOR t IN 1..200 LOOP
                 EXECUTE format('CREATE TABLE public.t%s ({MIXED_COLUMNS}, parent bigint NOT NULL)', t);
                 EXECUTE format($sql$INSERT INTO public.t%s {mixed_rows}, 1 + n %% greatest(%s, 1)
                     FROM generate_series(1, %s::bigint) AS n$sql$, t, {rows} / t, greatest({rows} / t, 1));
                 EXECUTE format('ALTER TABLE public.t%s ADD PRIMARY KEY (id)', t);
                 EXECUTE format('CREATE INDEX ON public.t%s (customer)', t);
                 EXECUTE format('CREATE INDEX ON public.t%s (at)', t);
             END LOOP; END $$"
        ),
        "DO $$ BEGIN FOR t IN 2..151 LOOP
             EXECUTE format('ALTER TABLE public.t%s ADD FOREIGN KEY (parent) REFERENCES public.t%s', t, t / 2);
         END LOOP; END $$"
            .to_owned(),
    ]
}

/// Small tables, each with a primary key and an index.
pub(super) fn many(tables: u64) -> Vec<String> {
    vec![format!(
        "DO $$ BEGIN FOR t IN 1..{tables} LOOP
             EXECUTE format('CREATE TABLE public.t%s (id integer PRIMARY KEY, name text, at timestamptz)', t);
             EXECUTE format('CREATE INDEX ON public.t%s (name)', t);
             EXECUTE format($sql$INSERT INTO public.t%s SELECT n, md5(n::text), now() FROM generate_series(1, 10) n$sql$, t);
             IF t % {BETWEEN_COMMITS} = 0 THEN COMMIT; END IF;
         END LOOP; END $$"
    )]
}

/// One table in many partitions of a thousand rows, a primary key and an index.
pub(super) fn partitions(partitions: u64) -> Vec<String> {
    vec![
        "CREATE TABLE public.events (id bigint NOT NULL, day integer NOT NULL, token text NOT NULL, PRIMARY KEY (id, \
         day)) PARTITION BY LIST (day)"
            .to_owned(),
        "CREATE INDEX ON public.events (token)".to_owned(),
        format!(
            "DO $$ BEGIN FOR t IN 0..{partitions} - 1 LOOP
                 EXECUTE format('CREATE TABLE public.events_%s PARTITION OF public.events FOR VALUES IN (%s)', t, t);
                 IF t % {BETWEEN_COMMITS} = 0 THEN COMMIT; END IF;
             END LOOP; END $$"
        ),
        format!(
            "INSERT INTO public.events SELECT n, n % {partitions}, md5(n::text) \
             FROM generate_series(0, {partitions}::bigint * 1000 - 1) AS n"
        ),
    ]
}

/// Large objects of some hundred bytes to some kilobytes, and a table that names them.
pub(super) fn large_objects(objects: u64) -> Vec<String> {
    vec![
        "CREATE TABLE public.files (id bigint PRIMARY KEY, content oid NOT NULL)".to_owned(),
        format!(
            "INSERT INTO public.files SELECT n, lo_from_bytea(0, convert_to(repeat(md5(n::text), 4 + (n % \
             100)::integer), 'UTF8')) FROM generate_series(1, {objects}::bigint) AS n"
        ),
    ]
}

//! What is written on the source, and what is asked of those who carry it over.

/// One kind of change stream, and its size.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    /// For `--workload`.
    pub(super) name: &'static str,
    /// The row of the table.
    pub(super) title: String,
    pub(super) start: Start,
    pub(super) backlog: Backlog,
    pub(super) transactions: u64,
    pub(super) changes_each: u64,
    /// One number that differs when a row is missing, doubled or old.
    pub(super) witness: &'static str,
    pub(super) goals: Goals,
    pub(super) contest: Contest,
}

/// The tables before the backlog.
#[derive(Debug, Clone)]
pub(super) enum Start {
    /// pgbench's own, at this scale.
    Pgbench {
        scale: u64,
    },
    Sql(String),
}

/// How the backlog is written.
#[derive(Debug, Clone)]
pub(super) enum Backlog {
    /// pgbench's TPC-B-like transactions.
    TpcB,
    /// A pgbench script, run by several clients; `:rows` is the number below.
    Script { text: &'static str, protocol: &'static str, rows: u64 },
    /// One session runs this.
    Sql(String),
}

/// What is asked for; ratios of times.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Goals {
    /// Ours to the drain's, at the most.
    pub(super) drain_max: Option<f64>,
    /// The native subscription's to ours, at the least.
    pub(super) native_min: Option<f64>,
}

/// Who runs, and what is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contest {
    /// Drain, native subscription and pgstream, from the start of the stream to the last row.
    Backlog,
    /// The same; beside it from the moment the walsender has sent all, as it would have of a transaction that
    /// it streamed while it went on.
    BacklogAndCommit,
    /// The same as a backlog; beside it pgstream through a proxy that delays, and through one that does not.
    BacklogAndDelay,
}

/// By how much the usual sizes are multiplied.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale(pub(super) f64);

impl Scale {
    /// A multiple of `step`, and at least that.
    pub(super) fn of(self, number: u64, step: u64) -> u64 {
        ((number as f64 * self.0) as u64 / step * step).max(step)
    }
}

/// Clients that write at once; transactions come in multiples of it, and rows are dealt out among them so that
/// no two wait for each other.
pub(super) const CLIENTS: u64 = 8;

/// With commas, for people.
pub(super) fn count(number: u64) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{},{:03}", count(number / 1000), number % 1000),
    }
}

fn goals(drain_max: f64, native_min: f64) -> Goals {
    Goals { drain_max: Some(drain_max), native_min: Some(native_min) }
}

fn faster_than_native(native_min: f64) -> Goals {
    Goals { drain_max: None, native_min: Some(native_min) }
}

/// A table `item` of so many rows.
pub(super) fn items(rows: u64) -> Start {
    Start::Sql(format!(
        "CREATE TABLE public.item (id bigint PRIMARY KEY, number integer NOT NULL, note text NOT NULL);
         INSERT INTO public.item SELECT n, 0, 'the note of item ' || n FROM generate_series(1, {rows}) AS n"
    ))
}

pub(super) const ITEMS_WITNESS: &str = "SELECT (count(*) * 1000003 + coalesce(sum(number), 0) * 31 + coalesce(sum(id), 0))::int8 FROM public.item";

pub(super) const UPDATE_ONE: &str = "\\set id 1 + :client_id + 8 * random(0, :rows / 8 - 1)\n\
    UPDATE public.item SET number = number + 1 WHERE id = :id;";

/// All rows of the table, in the order in which they are measured.
pub(super) fn all(scale: Scale) -> Vec<Workload> {
    vec![
        tpcb(scale),
        inserts(scale),
        updates(scale),
        indexed(scale),
        hot(scale),
        deletes(scale),
        giant(scale),
        wide(scale),
        keyless(scale),
        many_tables(scale),
    ]
}

pub(super) fn tpcb(scale: Scale) -> Workload {
    let transactions = scale.of(200_000, CLIENTS);
    Workload {
        name: "tpcb",
        title: format!("pgbench TPC-B, {} transactions", count(transactions)),
        start: Start::Pgbench { scale: scale.of(20, 1) },
        backlog: Backlog::TpcB,
        transactions,
        changes_each: 4,
        witness: "SELECT ((SELECT count(*) FROM public.pgbench_history) * 1000003
            + (SELECT sum(abalance) FROM public.pgbench_accounts) * 31
            + (SELECT sum(tbalance) FROM public.pgbench_tellers) * 7
            + (SELECT sum(bbalance) FROM public.pgbench_branches))::int8",
        goals: goals(1.3, 3.5),
        contest: Contest::BacklogAndDelay,
    }
}

fn inserts(scale: Scale) -> Workload {
    let transactions = scale.of(80_000, CLIENTS);
    Workload {
        name: "inserts",
        title: format!("10 inserts a transaction, {} rows", count(10 * transactions)),
        start: Start::Sql(
            "CREATE TABLE public.event (
                id bigserial PRIMARY KEY, account integer NOT NULL, amount numeric(12, 2) NOT NULL,
                note text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())"
                .to_owned(),
        ),
        backlog: Backlog::Script {
            text: "INSERT INTO public.event (account, amount, note) \
                   SELECT n, n * 1.25, 'event of ' || n FROM generate_series(1, 10) AS n;",
            protocol: "prepared",
            rows: 0,
        },
        transactions,
        changes_each: 10,
        witness: "SELECT (count(*) * 1000003 + coalesce(sum(id), 0) * 31 + coalesce(sum(account), 0))::int8
            FROM public.event",
        goals: goals(1.2, 1.7),
        contest: Contest::Backlog,
    }
}

fn updates(scale: Scale) -> Workload {
    let (transactions, rows) = (scale.of(80_000, CLIENTS), scale.of(400_000, 8 * CLIENTS));
    Workload {
        name: "updates",
        title: format!("4 updates a transaction, {} rows, primary key only", count(4 * transactions)),
        start: items(rows),
        backlog: Backlog::Script {
            text: "\\set a 1 + :client_id + 8 * random(0, :rows / 8 - 1)\n\
                   \\set b 1 + :client_id + 8 * random(0, :rows / 8 - 1)\n\
                   \\set c 1 + :client_id + 8 * random(0, :rows / 8 - 1)\n\
                   \\set d 1 + :client_id + 8 * random(0, :rows / 8 - 1)\n\
                   UPDATE public.item SET number = number + 1 WHERE id IN (:a, :b, :c, :d);",
            protocol: "prepared",
            rows,
        },
        transactions,
        changes_each: 4,
        witness: ITEMS_WITNESS,
        goals: goals(1.4, 2.5),
        contest: Contest::Backlog,
    }
}

fn indexed(scale: Scale) -> Workload {
    let (transactions, rows) = (scale.of(100_000, CLIENTS), scale.of(1_000_000, 8 * CLIENTS));
    let Start::Sql(items) = items(rows) else { unreachable!("a table of items is made by SQL") };
    Workload {
        name: "indexed",
        title: format!("{} updates of {} rows, two secondary indexes", count(transactions), count(rows)),
        start: Start::Sql(format!(
            "{items}; CREATE INDEX ON public.item (number, id); CREATE INDEX ON public.item (note)"
        )),
        backlog: Backlog::Script { text: UPDATE_ONE, protocol: "prepared", rows },
        transactions,
        changes_each: 1,
        witness: ITEMS_WITNESS,
        goals: faster_than_native(1.5),
        contest: Contest::Backlog,
    }
}

fn hot(scale: Scale) -> Workload {
    let transactions = scale.of(150_000, CLIENTS);
    Workload {
        name: "hot",
        title: format!("{} updates of ten hot rows", count(transactions)),
        start: items(10),
        backlog: Backlog::Script {
            text: "\\set id random(1, 10)\nUPDATE public.item SET number = number + 1 WHERE id = :id;",
            protocol: "prepared",
            rows: 0,
        },
        transactions,
        changes_each: 1,
        witness: ITEMS_WITNESS,
        goals: goals(1.15, 3.0),
        contest: Contest::Backlog,
    }
}

fn deletes(scale: Scale) -> Workload {
    let transactions = scale.of(80_000, CLIENTS);
    let rows = 4 * transactions;
    let Start::Sql(items) = items(rows + rows / 10) else { unreachable!("a table of items is made by SQL") };
    Workload {
        name: "deletes",
        title: format!("4 deletes by key a transaction, {} rows", count(rows)),
        start: Start::Sql(format!("{items}; CREATE SEQUENCE public.gone")),
        backlog: Backlog::Script {
            text: "DELETE FROM public.item USING (SELECT 4 * nextval('public.gone') AS last) AS next \
                   WHERE id IN (last - 3, last - 2, last - 1, last);",
            protocol: "prepared",
            rows,
        },
        transactions,
        changes_each: 4,
        witness: ITEMS_WITNESS,
        goals: goals(1.4, 2.5),
        contest: Contest::Backlog,
    }
}

fn giant(scale: Scale) -> Workload {
    let rounds = scale.of(50, 1);
    // Of each round 80,000 rows and 20,000 updates stay.
    let mut sql = "BEGIN".to_owned();
    for round in 0..rounds {
        let first = round * 100_000;
        sql += &format!(
            "; INSERT INTO public.item SELECT n, 0, 'the note of item ' || n
                 FROM generate_series({first} + 1, {first} + 80000) AS n; \
             SAVEPOINT undone; \
             INSERT INTO public.item SELECT n, 1, 'never there' FROM generate_series({first} + 80001, {first} + 90000) AS n; \
             UPDATE public.item SET number = -1 WHERE id BETWEEN {first} + 1 AND {first} + 5000; \
             ROLLBACK TO undone; \
             UPDATE public.item SET number = number + 1 WHERE id BETWEEN {first} + 10001 AND {first} + 30000"
        );
    }
    Workload {
        name: "giant",
        title: format!("one transaction of {} changes, savepoints rolled back", count(100_000 * rounds)),
        start: items(0),
        backlog: Backlog::Sql(format!("{sql}; COMMIT")),
        transactions: 1,
        changes_each: rounds * 100_000,
        witness: ITEMS_WITNESS,
        goals: faster_than_native(2.0),
        contest: Contest::BacklogAndCommit,
    }
}

fn wide(scale: Scale) -> Workload {
    let (transactions, rows) = (scale.of(20_000, CLIENTS), scale.of(5_000, 8 * CLIENTS));
    // Digests do not compress: both documents are stored out of line, 8 and 4 kB of them.
    let document = |seed: &str, digests: u32| {
        format!("(SELECT string_agg(md5({seed} || '/' || m), '') FROM generate_series(1, {digests}) AS m)")
    };
    Workload {
        name: "wide",
        title: format!("{} updates of one of two TOASTed documents", count(transactions)),
        start: Start::Sql(format!(
            "CREATE TABLE public.document (
                 id bigint PRIMARY KEY, version integer NOT NULL, body text NOT NULL, abstract text NOT NULL);
             ALTER TABLE public.document ALTER body SET STORAGE EXTERNAL, ALTER abstract SET STORAGE EXTERNAL;
             INSERT INTO public.document SELECT n, 0, {}, {} FROM generate_series(1, {rows}) AS n",
            document("n", 256),
            document("-n", 128)
        )),
        backlog: Backlog::Script {
            text: "\\set id 1 + :client_id + 8 * random(0, :rows / 8 - 1)\n\
                   UPDATE public.document SET version = version + 1, abstract = \
                   (SELECT string_agg(md5(version || '/' || m), '') FROM generate_series(1, 128) AS m) \
                   WHERE id = :id;",
            protocol: "prepared",
            rows,
        },
        transactions,
        changes_each: 1,
        witness: "SELECT (sum(version) + sum(hashtext(abstract)::int8 + hashtext(body)::int8))::int8
            FROM public.document",
        goals: goals(1.4, 1.5),
        contest: Contest::Backlog,
    }
}

/// The native subscriber reads the table once for each change; so there are few.
fn keyless(scale: Scale) -> Workload {
    let rows = scale.of(100_000, 1000);
    let statements = scale.of(10, 1);
    keyless_of(rows, statements)
}

/// A hundred changes a transaction, all over the table: who looks for each row from the front reads half of it.
pub(super) fn keyless_of(rows: u64, transactions: u64) -> Workload {
    let step = (rows / 100).max(1);
    let updates: Vec<String> = (0..transactions)
        .map(|at| {
            format!(
                "BEGIN; UPDATE public.reading SET value = value + 1 WHERE sensor % {step} = {}; COMMIT",
                at % step
            )
        })
        .collect();
    Workload {
        name: "keyless",
        title: format!("no key, identity FULL, {} rows, {} updates", count(rows), count(100 * transactions)),
        start: Start::Sql(format!(
            "CREATE TABLE public.reading (sensor integer, value numeric, note text);
             ALTER TABLE public.reading REPLICA IDENTITY FULL;
             INSERT INTO public.reading SELECT n, n * 0.5, 'reading ' || n % 1000
                 FROM generate_series(1, {rows}) AS n"
        )),
        backlog: Backlog::Sql(updates.join(";\n")),
        transactions,
        changes_each: 100,
        witness: "SELECT (count(*) * 1000003 + sum(value * 2 * sensor))::int8 FROM public.reading",
        goals: faster_than_native(10.0),
        contest: Contest::Backlog,
    }
}

fn many_tables(scale: Scale) -> Workload {
    let tables = scale.of(1000, 8 * CLIENTS);
    tables_of(tables, tables, scale.of(40_000, CLIENTS))
}

/// So many tables, the first of them changed.
pub(super) fn tables_of(tables: u64, changed: u64, transactions: u64) -> Workload {
    Workload {
        name: "tables",
        title: format!("{} tables, {} changes spread over {}", count(tables), count(2 * transactions), count(changed)),
        start: Start::Sql(format!(
            "DO $$ BEGIN FOR n IN 1..{tables} LOOP
                 EXECUTE format('CREATE TABLE public.t%s (id bigint PRIMARY KEY, number integer, note text)', n);
                 EXECUTE format('INSERT INTO public.t%s SELECT i, 0, ''note'' FROM generate_series(1, 64) AS i', n);
             END LOOP; END $$;
             CREATE SEQUENCE public.next START 65"
        )),
        backlog: Backlog::Script {
            text: "\\set table random(1, :rows)\n\\set id 1 + :client_id + 8 * random(0, 7)\n\
                   BEGIN;\nUPDATE public.t:table SET number = number + 1 WHERE id = :id;\n\
                   INSERT INTO public.t:table VALUES (nextval('public.next'), 1, 'another note');\nEND;",
            protocol: "simple",
            rows: changed,
        },
        transactions,
        changes_each: 2,
        witness: "SELECT coalesce(sum((xpath('/row/c/text()', query_to_xml(format(
                'SELECT count(*) * 1000003 + sum(id) * 31 + sum(number) AS c FROM public.%I', relname),
                false, true, '')))[1]::text::int8), 0)::int8
            FROM pg_catalog.pg_class WHERE relkind = 'r' AND relname ~ '^t[0-9]+$'",
        goals: faster_than_native(2.0),
        contest: Contest::Backlog,
    }
}

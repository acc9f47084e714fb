//! Streams to measure with: recorded ones from `tests/golden`, and generated ones with their tables.

use std::fs;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use pgstream::catalog::{
    BinaryForm, Column, Generated, IdentityColumn, Index, IndexKind, Persistence, RelReplIdent, Table,
    TableKind, TransferType, TypeKind,
};
use pgstream::pg::{Identifier, Lsn, Oid, PgTimestamp, QualifiedName, RelationId, Xid};
use pgstream::pgoutput::{
    Begin, Commit, Insert, Message, Relation, RelationColumn, ReplicaIdentity, Tuple, Update, Value, encode,
};

/// Messages of the plugin, in order.
pub(crate) struct Stream {
    pub(crate) name: String,
    pub(crate) version: u8,
    pub(crate) messages: Vec<Bytes>,
    /// What they change, as the target has it; none for recorded streams.
    pub(crate) tables: Vec<Table>,
}

/// A table `bench.<name>` with a bigint key.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    columns: &'static [(&'static str, u32)],
    filler_bytes: usize,
}

const TEXT: u32 = 25;

impl Shape {
    /// Three columns, some twenty bytes a row.
    pub(crate) const NARROW: Shape =
        Shape { name: "narrow", columns: &[("id", 20), ("balance", 23), ("note", TEXT)], filler_bytes: 4 };
    /// Twelve columns, about half a kilobyte a row.
    pub(crate) const WIDE: Shape = Shape {
        name: "wide",
        columns: &[
            ("id", 20),
            ("customer", 23),
            ("product", 23),
            ("amount", 23),
            ("name", TEXT),
            ("street", TEXT),
            ("city", TEXT),
            ("country", TEXT),
            ("email", TEXT),
            ("remark", TEXT),
            ("status", TEXT),
            ("version", 23),
        ],
        filler_bytes: 70,
    };
    const ACCOUNTS: Shape = Shape {
        name: "accounts",
        columns: &[("aid", 23), ("bid", 23), ("abalance", 23), ("filler", TEXT)],
        filler_bytes: 84,
    };
    const TELLERS: Shape =
        Shape { name: "tellers", columns: &[("tid", 23), ("bid", 23), ("tbalance", 23)], filler_bytes: 0 };
    const BRANCHES: Shape =
        Shape { name: "branches", columns: &[("bid", 23), ("bbalance", 23)], filler_bytes: 0 };
    /// Its first column is no key on the real one; here it is, which changes nothing for inserts.
    const HISTORY: Shape = Shape {
        name: "history",
        columns: &[("hid", 20), ("tid", 23), ("bid", 23), ("aid", 23), ("delta", 23)],
        filler_bytes: 0,
    };

    fn relation(self, id: u32) -> Message {
        let column = |(at, (name, type_oid)): (usize, &(&str, u32))| RelationColumn {
            is_key: at == 0,
            name: (*name).to_owned(),
            type_oid: Oid::new(*type_oid),
            type_modifier: -1,
        };
        Message::Relation(Relation {
            xid: None,
            id: RelationId::new(id),
            namespace: "bench".to_owned(),
            name: self.name.to_owned(),
            replica_identity: ReplicaIdentity::Default,
            columns: self.columns.iter().enumerate().map(column).collect(),
        })
    }

    fn table(self, id: u32) -> Table {
        Table {
            oid: RelationId::new(id),
            name: QualifiedName::new("bench", self.name),
            kind: TableKind::Ordinary,
            persistence: Persistence::Permanent,
            owner: "bench".into(),
            is_partition: false,
            parents: Vec::new(),
            extension: None,
            replica_identity: RelReplIdent::Default,
            row_security: false,
            replica_triggers: Vec::new(),
            has_rules: false,
            blocks: 0,
            bytes: 0,
            rows_estimate: 0.0,
            columns: (1..).zip(self.columns).map(|(number, column)| target_column(number, column)).collect(),
            indexes: vec![Index {
                oid: Oid::new(1),
                name: Identifier::new("key"),
                kind: IndexKind::Primary,
                key: vec![1],
                is_partial: false,
                is_immediate: true,
                is_valid: true,
                is_replica_identity: false,
                is_identity_eligible: true,
            }],
        }
    }

    /// A row: the key, numbers that follow from it, and filler.
    fn row(self, key: u32, salt: u32) -> Tuple {
        let (key_text, number) = (key.to_string(), key.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 12);
        let (number, filler) = (number.to_string(), "x".repeat(self.filler_bytes));
        let value = |(at, (_, type_oid)): (usize, &(&str, u32))| match (at, *type_oid) {
            (0, _) => Value::Text(key_text.as_bytes()),
            (_, TEXT) => Value::Text(filler.as_bytes()),
            (_, _) => Value::Text(number.as_bytes()),
        };
        // Borrows end here: the values are laid out at once.
        Tuple::of(self.columns.iter().enumerate().map(value)).expect("a row of few columns")
    }
}

fn target_column(number: i16, (name, type_oid): &(&str, u32)) -> Column {
    let (type_name, array_oid) = match *type_oid {
        20 => ("int8", 1016),
        23 => ("int4", 1007),
        _ => ("text", 1009),
    };
    Column {
        number,
        name: Identifier::new(*name),
        type_oid: Oid::new(*type_oid),
        type_name: QualifiedName::new("pg_catalog", type_name).into(),
        type_text: type_name.into(),
        type_modifier: -1,
        type_kind: TypeKind::Base,
        base_kind: TypeKind::Base,
        array_oid: Some(Oid::new(array_oid)),
        transfer: TransferType::BinarySafe,
        binary: BinaryForm::Reads { extensions: vec![] },
        not_null: number == 1,
        generated: Generated::No,
        identity: IdentityColumn::No,
        has_equality: true,
    }
}

impl Stream {
    /// Inserts, so many to a transaction.
    pub(crate) fn inserts(shape: Shape, changes: u32, per_transaction: u32) -> Stream {
        let relation = RelationId::new(1);
        let name = format!("inserts/{}", shape.name);
        Stream::generate(name, &[shape], changes / per_transaction, |transaction| {
            let insert = |row| {
                let new = shape.row(transaction * per_transaction + row, 0);
                Message::Insert(Insert { xid: None, relation, new })
            };
            (0..per_transaction).map(insert).collect()
        })
    }

    /// Updates by key, one to a transaction, of so many different rows.
    pub(crate) fn updates(shape: Shape, changes: u32, rows: u32) -> Stream {
        let relation = RelationId::new(1);
        let name = format!("updates/{}/{}x", shape.name, changes / rows);
        Stream::generate(name, &[shape], changes, |transaction| {
            let new = shape.row(transaction % rows, transaction);
            vec![Message::Update(Update { xid: None, relation, old: None, new })]
        })
    }

    /// What pgbench's TPC-B-like transactions change, at scale 10.
    pub(crate) fn tpcb(transactions: u32) -> Stream {
        let shapes = [Shape::ACCOUNTS, Shape::TELLERS, Shape::BRANCHES, Shape::HISTORY];
        Stream::generate("tpcb".to_owned(), &shapes, transactions, |transaction| {
            let chance = transaction.wrapping_mul(2_654_435_761);
            let update = |relation, shape: Shape, key| {
                let new = shape.row(key, transaction);
                Message::Update(Update { xid: None, relation: RelationId::new(relation), old: None, new })
            };
            let history = Shape::HISTORY.row(transaction, 0);
            vec![
                update(1, Shape::ACCOUNTS, chance % 1_000_000),
                update(2, Shape::TELLERS, chance % 100),
                update(3, Shape::BRANCHES, chance % 10),
                Message::Insert(Insert { xid: None, relation: RelationId::new(4), new: history }),
            ]
        })
    }

    fn generate(
        name: String,
        shapes: &[Shape],
        transactions: u32,
        mut changes: impl FnMut(u32) -> Vec<Message>,
    ) -> Stream {
        let mut messages = Vec::new();
        for transaction in 0..transactions {
            let lsn = Lsn::new(0x100 + u64::from(transaction) * 0x100);
            let end_lsn = Lsn::new(lsn.offset() + 0x30);
            let commit_time = PgTimestamp::from_micros(0);
            messages.push(Message::Begin(Begin {
                final_lsn: lsn,
                commit_time,
                xid: Xid::new(transaction + 3),
            }));
            if transaction == 0 {
                messages.extend((1..).zip(shapes).map(|(id, shape)| shape.relation(id)));
            }
            messages.extend(changes(transaction));
            messages.push(Message::Commit(Commit { flags: 0, commit_lsn: lsn, end_lsn, commit_time }));
        }
        let messages = one_buffer(messages.iter().map(|message| encode(message).expect("small messages")));
        let tables = (1..).zip(shapes).map(|(id, shape)| shape.table(id)).collect();
        Stream { name, version: 1, messages, tables }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.messages.iter().map(|message| message.len() as u64).sum()
    }

    /// Inserts, updates and deletes.
    pub(crate) fn changes(&self) -> u64 {
        let is_change = |message: &&Bytes| matches!(message.first(), Some(b'I' | b'U' | b'D'));
        self.messages.iter().filter(is_change).count() as u64
    }
}

/// What real servers sent (`tests/golden/README.md`).
///
/// # Panics
/// If a capture cannot be read.
pub(crate) fn recorded() -> Vec<Stream> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    // Text and binary, plain and with streamed blocks.
    ["15-v1-text", "18-v4-binary"]
        .map(|name| {
            let text = fs::read_to_string(folder.join(name).with_extension("hex")).expect("a capture");
            let messages = text.lines().filter(|line| !line.starts_with('#')).map(from_hex);
            let version = if name.contains("v4") { 4 } else { 1 };
            Stream { name: name.to_owned(), version, messages: one_buffer(messages), tables: Vec::new() }
        })
        .into()
}

fn from_hex(line: &str) -> Bytes {
    let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal digits");
    (0..line.len()).step_by(2).map(byte).collect()
}

/// A buffer that messages are cut from, as they are when they come from a socket.
fn one_buffer(messages: impl IntoIterator<Item = Bytes>) -> Vec<Bytes> {
    let messages: Vec<Bytes> = messages.into_iter().collect();
    let mut all = BytesMut::with_capacity(messages.iter().map(Bytes::len).sum());
    let lengths: Vec<usize> = messages.iter().map(Bytes::len).collect();
    messages.iter().for_each(|message| all.put_slice(message));
    let mut all = all.freeze();
    lengths.into_iter().map(|length| all.split_to(length)).collect()
}

//! The same rows by other ways: encrypted on both ends, and far away.
//!
//! Each is beside the way that it differs from in that alone: TLS beside TCP in clear, a proxy that holds bytes back
//! beside one that does not. Only the phase in which rows are copied is compared.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;
use std::time::Duration;

use pgstream::demo::Cluster;
use pgstream::error::{Error, ErrorKind, Result};

use super::contest::{Own, pgstream};
use super::dataset::mixed;
use super::{SOURCE, Size, TARGET, fill};
use crate::fault::Proxy;
use crate::figure::{figure, median};
use crate::process::Running;
use crate::stage::{Stage, run};

/// Each way, between the engine and either server.
const DELAY: Duration = Duration::from_millis(10);

/// Ways, each right behind the one that it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Clear,
    Tls,
    Near,
    Far,
}

const WAYS: [Way; 4] = [Way::Clear, Way::Tls, Way::Near, Way::Far];

impl Way {
    fn title(self) -> &'static str {
        match self {
            Way::Clear => "TCP in clear",
            Way::Tls => "TLS on both ends",
            Way::Near => "a proxy before both ends",
            Way::Far => "the same, 10 ms each way",
        }
    }

    /// What it is compared with, and how many times as long it may take.
    fn beside(self) -> Option<(Way, f64)> {
        match self {
            Way::Clear | Way::Near => None,
            Way::Tls => Some((Way::Clear, 1.3)),
            Way::Far => Some((Way::Near, 1.1)),
        }
    }
}

pub(super) async fn measure(stage: &Stage, size: Size) -> Result<()> {
    let set = mixed(size.of(2_500_000));
    fill(stage, &set).await?;
    for cluster in [&stage.source, &stage.target] {
        offer_tls(cluster).await?;
    }
    let outcome = compare(stage, size.repetitions).await;
    // Whoever says nothing else would take it from here on.
    for cluster in [&stage.source, &stage.target] {
        set_tls(cluster, "RESET ssl").await?;
    }
    let runs = outcome?;
    println!(
        "\n{} by other ways\n\n| way | copy s | times | engine CPU s/GB | peak MB |\n|---|---:|---:|---:|---:|",
        set.title
    );
    for way in WAYS {
        let own = |of: fn(&Own) -> f64| median(runs.of(way).map(of));
        let times = way.beside().map(|(other, goal)| {
            let pairs = runs.of(way).zip(runs.of(other));
            let times = median(pairs.map(|(this, other)| this.copy_seconds / other.copy_seconds));
            format!("{} (≤ {goal})", figure(times))
        });
        println!(
            "| {} | {} | {} | {} | {} |",
            way.title(),
            figure(own(|own| own.copy_seconds)),
            times.unwrap_or_default(),
            figure(own(|own| own.cpu / (own.bytes / 1e9))),
            figure(own(|own| own.memory_bytes) / 1e6)
        );
    }
    Ok(())
}

/// All runs, in the order in which they ran.
struct Runs(Vec<(Way, Own)>);

impl Runs {
    fn of(&self, way: Way) -> impl Iterator<Item = &Own> {
        self.0.iter().filter(move |(one, _)| *one == way).map(|(_, own)| own)
    }
}

async fn compare(stage: &Stage, repetitions: usize) -> Result<Runs> {
    let ports = [stage.source.port(), stage.target.port()];
    let near = [Proxy::start(ports[0]).await, Proxy::start(ports[1]).await];
    let far = [Proxy::start(ports[0]).await, Proxy::start(ports[1]).await];
    for proxy in &far {
        proxy.delay(DELAY);
    }
    let mut ways = WAYS;
    let mut runs = Vec::new();
    for _ in 0..repetitions {
        for way in ways {
            stage.target.drop_database(TARGET).await?;
            stage.target.create_database(TARGET).await?;
            stage.settle().await?;
            let dsn = |cluster: &Cluster, dbname: &str, end: usize| {
                let (mode, port) = match way {
                    Way::Clear => ("disable", ports[end]),
                    Way::Tls => ("require", ports[end]),
                    Way::Near => ("disable", near[end].port()),
                    Way::Far => ("disable", far[end].port()),
                };
                format!("{} host=127.0.0.1 port={port} sslmode={mode}", cluster.dsn(dbname))
            };
            let (source, target) = (dsn(&stage.source, SOURCE, 0), dsn(&stage.target, TARGET, 1));
            let (_, own) = pgstream(stage.migrate_by(&source, &target)).await?;
            runs.push((way, own));
        }
        ways.reverse();
    }
    Ok(Runs(runs))
}

/// Gives a server a certificate that nobody vouches for.
async fn offer_tls(cluster: &Cluster) -> Result<()> {
    let data = cluster.data_directory();
    let (key, certificate) = (data.join("server.key"), data.join("server.crt"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-days", "2", "-subj", "/CN=localhost", "-keyout"]).arg(&key).arg("-out").arg(&certificate);
    Running::start(command)?.finish().await?;
    let give_away = || {
        let owner = std::fs::metadata(&data)?;
        for file in [&key, &certificate] {
            std::fs::set_permissions(file, PermissionsExt::from_mode(0o600))?;
            chown(file, Some(owner.uid()), Some(owner.gid()))?;
        }
        Ok(())
    };
    give_away().map_err(|cause: std::io::Error| {
        Error::new(ErrorKind::Local, "give a server its certificate").because(cause)
    })?;
    set_tls(cluster, "SET ssl = on").await
}

async fn set_tls(cluster: &Cluster, change: &str) -> Result<()> {
    let session = cluster.session("postgres").await?;
    run(&session, &format!("ALTER SYSTEM {change}")).await?;
    run(&session, "SELECT pg_catalog.pg_reload_conf()").await
}

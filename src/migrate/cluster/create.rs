//! What belongs to the server and not to one database's content: roles, databases, and what hangs on them.
//!
//! Hazard: a timeout or a limit that bites while we fill a database ends our own work (P73), so that part is
//! carried last. An owner must be there before what he owns: roles come first.

use super::survey::Stand;
use super::{Order, Roles};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::pg::{Conninfo, Identifier};
use crate::precheck;
use crate::schema::{
    CarriedRoles, DatabaseDefinition, Stage, carry_database_properties, carry_roles, create_database,
    read_databases,
};
use crate::wire::{Session, SessionSettings};

/// What is done about databases that the target lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Creation {
    /// They are created.
    #[default]
    Missing,
    /// They are the operator's to create, and fail until then.
    Never,
}

/// How the source's databases were made, and where on both servers that is asked and done.
pub(super) struct Definitions {
    databases: Vec<DatabaseDefinition>,
    target: Conninfo,
}

/// Makes the roles that the target lacks, as far as they are wanted.
pub(super) async fn roles(order: &Order, source: &Conninfo, target: &Conninfo) -> Result<CarriedRoles> {
    let Roles::Carry(settings) = &order.roles else { return Ok(CarriedRoles::default()) };
    let (source, target) = tokio::try_join!(enter(Side::Source, source), enter(Side::Target, target))?;
    carry_roles(&source, &target, settings).await
}

impl Definitions {
    /// Reads how the source's databases were made.
    pub(super) async fn read(source: &Conninfo, target: &Conninfo) -> Result<Definitions> {
        let session = enter(Side::Source, source).await?;
        let databases = read_databases(&session).await.map_err(|error| error.on(Side::Source))?;
        Ok(Definitions { databases, target: target.clone() })
    }

    /// Creates the database like the one on the source, unless it is there, and hangs on it what can do our own
    /// work no harm. Gives what of it did not arrive.
    pub(super) async fn create(&self, stand: &Stand) -> Result<Vec<String>> {
        let name = &stand.pair.target;
        let definition = self.definition(stand)?;
        let session = enter(Side::Target, &self.target).await?;
        let created =
            create_database(&session, definition, name).await.map_err(|error| error.on(Side::Target))?;
        let more = carry_database_properties(&session, definition, name, Stage::Early).await?;
        Ok(about(stand, created.warnings.into_iter().chain(more)))
    }

    /// Hangs the rest on it.
    pub(super) async fn complete(&self, stand: &Stand) -> Result<Vec<String>> {
        let session = enter(Side::Target, &self.target).await?;
        let definition = self.definition(stand)?;
        let more = carry_database_properties(&session, definition, &stand.pair.target, Stage::Last).await?;
        Ok(about(stand, more))
    }

    fn definition(&self, stand: &Stand) -> Result<&DatabaseDefinition> {
        let name = &stand.pair.source;
        self.databases.iter().find(|one| one.name == *name).ok_or_else(|| {
            let name = Identifier::new(name.as_str());
            Error::new(ErrorKind::Drift, format!("read how database {name} was made"))
                .because("the source does not list it")
        })
    }
}

fn about(stand: &Stand, warnings: impl IntoIterator<Item = String>) -> Vec<String> {
    let name = Identifier::new(stand.pair.target.as_str());
    warnings.into_iter().map(|warning| format!("database {name}: {warning}")).collect()
}

async fn enter(side: Side, conninfo: &Conninfo) -> Result<Session> {
    let session = Session::connect(conninfo, &SessionSettings::role("server")).await;
    session.map_err(|error| precheck::explain(side, conninfo, error))
}

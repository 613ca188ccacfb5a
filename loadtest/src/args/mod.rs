//! The command line: options, their help, and the plan that they describe. Nothing else in the crate reads
//! the environment.

mod help;
mod options;
mod parse;
mod plan;

pub(crate) use self::options::{Cli, CliCommand, Common, PublishBy};
pub(crate) use self::plan::Plan;

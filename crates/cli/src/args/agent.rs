//! Commands about coding agents and their tasks.

use clap::{
    Args, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use fsa_model::agent;

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Have an agent do something, and show how it does; ends with 0 if it succeeded
    Run(Box<TaskRun>),
    List {
        project: String,
    },
    Show {
        project: String,
        task: String,
        /// Show its steps until it has ended
        #[arg(long, short)]
        follow: bool,
        /// What the agent changed
        #[arg(long, conflicts_with = "follow")]
        diff: bool,
    },
    /// End a task, or take it out of the queue
    Cancel {
        project: String,
        task: String,
    },
}

#[derive(Debug, Args)]
pub struct TaskRun {
    pub project: String,
    /// What the agent is to do [default: read from standard input]
    pub prompt: Option<String>,
    /// The agent
    #[arg(long, default_value = agent::Agent::default().name(), value_parser = agents())]
    pub agent: agent::Agent,
    /// As the agent names it
    #[arg(long)]
    pub model: Option<String>,
    /// US dollars
    #[arg(long)]
    pub budget: Option<f64>,
    /// End it after this many seconds [default: 3600]
    #[arg(long, short)]
    pub timeout: Option<u32>,
    /// Go on with the conversation of this earlier task
    #[arg(long = "continue", value_name = "TASK")]
    pub continues: Option<String>,
    /// Print the task's id and do not wait
    #[arg(long, short)]
    pub detach: bool,
}

#[derive(Debug, Subcommand)]
pub enum Agent {
    /// What a project's agents have spent this month, by model
    Show {
        project: String,
    },
    /// Set what a project's agents may spend in a month
    Budget {
        project: String,
        /// US dollars, or `none` for the server's own limit
        dollars: String,
    },
    /// List your own variables for agents
    Keys,
    /// Set one of your own variables for agents; its value is read from standard input
    SetKey {
        /// Such as ANTHROPIC_API_KEY
        name: String,
    },
    UnsetKey {
        name: String,
    },
}

/// The names of the agents, with their titles in the help.
fn agents() -> impl TypedValueParser<Value = agent::Agent> {
    let values = agent::Agent::ALL
        .iter()
        .map(|agent| PossibleValue::new(agent.name()).help(agent.title()));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<agent::Agent>())
}

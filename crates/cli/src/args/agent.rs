//! Commands for coding agents and their tasks.

use clap::{
    Args, Subcommand,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use fsa_model::agent;

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Run a prompt with an agent and show its steps; exits with 0 if the task succeeded
    Run(Box<TaskRun>),
    /// List a project's tasks
    List { project: String },
    /// Show a task
    Show {
        project: String,
        task: String,
        /// Show the steps until the task has ended
        #[arg(long, short)]
        follow: bool,
        /// Show the diff of what the agent changed
        #[arg(long, conflicts_with = "follow")]
        diff: bool,
    },
    /// Cancel a task that runs or is queued
    Cancel { project: String, task: String },
}

#[derive(Debug, Args)]
pub struct TaskRun {
    pub project: String,
    /// Prompt [default: read from standard input]
    pub prompt: Option<String>,
    /// Agent that works on the prompt
    #[arg(long, default_value = agent::Agent::default().name(), value_parser = agents())]
    pub agent: agent::Agent,
    /// Model, as the agent names it
    #[arg(long)]
    pub model: Option<String>,
    /// Budget in US dollars
    #[arg(long)]
    pub budget: Option<f64>,
    /// Timeout in seconds [default: 3600]
    #[arg(long, short)]
    pub timeout: Option<u32>,
    /// Continue the conversation of an earlier task
    #[arg(long = "continue", value_name = "TASK")]
    pub continues: Option<String>,
    /// Print the task's id and exit
    #[arg(long, short)]
    pub detach: bool,
}

#[derive(Debug, Subcommand)]
pub enum Agent {
    /// Show what a project's agents have spent this month, by model
    Show { project: String },
    /// Set the monthly budget of a project's agents
    Budget {
        project: String,
        /// US dollars, or `none` for the server's budget
        dollars: String,
    },
    /// List the names of your own variables for agents
    Keys,
    /// Set one of your own variables for agents; the value is read from standard input
    SetKey {
        /// Name, such as ANTHROPIC_API_KEY
        name: String,
    },
    /// Delete one of your own variables for agents
    UnsetKey { name: String },
}

/// The names of the agents, with their titles in the help.
fn agents() -> impl TypedValueParser<Value = agent::Agent> {
    let values = agent::Agent::ALL
        .iter()
        .map(|agent| PossibleValue::new(agent.name()).help(agent.title()));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<agent::Agent>())
}

//! Coding agents: the one list of their names and titles. Command line, API, page, fuzz targets and docs take them
//! from here; `fsa-server`'s `tasks::agents` has an adapter for each.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! agents {
    ($($(#[$attribute:meta])* $variant:ident = $name:literal, $title:literal;)*) => {
        /// An agent that can run a task.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        // utoipa reads no name that a macro puts into `rename`.
        #[serde(rename_all = "lowercase")]
        pub enum Agent {
            $($(#[$attribute])* #[doc = $title] $variant,)*
        }

        impl Agent {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in the API and the database, which is also the program's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The name for people.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

agents! {
    #[default]
    Claude = "claude", "Claude Code";
    Codex = "codex", "Codex CLI";
    Gemini = "gemini", "Gemini CLI";
}

impl FromStr for Agent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|agent| agent.name() == text);
        found.copied().ok_or_else(|| {
            format!(
                "unknown agent `{text}`: use {}",
                Self::ALL
                    .iter()
                    .map(|agent| agent.name())
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        })
    }
}

/// An item of `GET /api/agents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentInfo {
    /// The value of a task's `agent`.
    pub name: Agent,
    /// The name for people.
    pub title: String,
}

impl From<Agent> for AgentInfo {
    fn from(agent: Agent) -> Self {
        Self {
            name: agent,
            title: agent.title().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_name_is_the_same_in_json_and_everywhere_else() {
        for &agent in Agent::ALL {
            assert_eq!(serde_json::to_value(agent).unwrap(), agent.name());
            assert_eq!(agent.name().parse(), Ok(agent));
        }
    }
}

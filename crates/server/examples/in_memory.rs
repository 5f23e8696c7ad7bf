//! Example server on a data plane in memory, for tools that test the API from outside. It prints its address
//! and a token of its owner, each on a line, and ends at the end of standard input. It has a running project
//! `todo` and a stopped project `other`.

use std::io::{Read as _, Write as _};

use secrecy::ExposeSecret as _;
use serde_json::json;

#[path = "../tests/common/mod.rs"]
mod common;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let world = common::World::working().await;
    let owner = world.owner().await;
    let projects = [
        json!({"name": "todo", "envVars": {"A": "b"}}),
        json!({"name": "other", "start": false}),
    ];
    for project in projects {
        owner
            .with("prefer", "wait=60")
            .post("/api/projects", &project)
            .await
            .expect(201);
    }
    let token = fsa_server::auth::create_token_for_owner(&world.app, "tool")
        .await
        .expect("the owner gets a token");
    println!("http://{}\n{}", world.address, token.expose_secret());
    std::io::stdout().flush().expect("stdout is open");
    let stdin_closed = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = stdin_closed.await;
    world.stop().await;
}

//! Main job tests, on the runtime image: an agent writes an application that uses its database, and the
//! application is opened at its own URL. Further applications are typical hand-written ones.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use fsa_model::{agent_api::AgentAccount, api::CreateProject, money::Micros};
use fsa_tests::{
    PreviewClient, TestTerminal, World, exported,
    public_host::{self, PublicHost},
    scripted_llm::{self, ReceivedRequests, ScriptedTurn},
};
use serde_json::json;

const SERVER: &str = r#"
const http = require('http');
const { Client } = require('pg');
(async () => {
  const client = new Client({ connectionString: process.env.DATABASE_URL });
  await client.connect();
  await client.query('create table if not exists visits (id serial primary key, at timestamptz default now())');
  http.createServer(async (request, response) => {
    await client.query('insert into visits default values');
    const { rows } = await client.query('select count(*)::int as n from visits');
    response.setHeader('content-type', 'text/html');
    response.end('<h1>visit ' + rows[0].n + '</h1>');
  }).listen(3000);
})();
"#;

fn web_world() -> World {
    World::start(&[
        "--web-image",
        exported("FSA_WEB_IMAGE").to_str().expect("a path of UTF-8"),
        "--allow-networks",
        public_host::RANGE,
    ])
}

fn test_apps() -> PathBuf {
    exported("FSA_TEST_APPS")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coding_agent_writes_an_application_with_a_database_that_opens_at_its_url() {
    let world = web_world();
    let api = world.api();
    let received = Arc::new(Mutex::new(ReceivedRequests::default()));
    let script = vec![
        ScriptedTurn::Tool {
            name: "Write",
            input: json!({"file_path": "/home/dev/project/server.js", "content": SERVER}),
        },
        ScriptedTurn::Tool {
            name: "Bash",
            input: json!({"command": "echo 'web: node server.js' > Procfile && psql -Atc 'select 40 + 2'", "description": "Start it"}),
        },
        ScriptedTurn::Text("The application counts its visits."),
    ];
    let kept = Arc::clone(&received);
    let host = PublicHost::start(8000, move |listener| scripted_llm::serve(listener, script, kept));

    api.create_as(CreateProject {
        name: "visits".into(),
        env_vars: [
            (
                "ANTHROPIC_BASE_URL".into(),
                format!("http://{}:8000", host.address),
            ),
            ("ANTHROPIC_API_KEY".into(), "sk-scripted".into()),
        ]
        .into(),
        ..CreateProject::default()
    })
    .await;
    api.until_running("visits").await;
    let packages = test_apps().join("node/node_modules");
    let copied = world.fsa(&["cp", packages.to_str().expect("a path"), "visits:node_modules"]);
    assert!(
        copied.status.success(),
        "{}",
        String::from_utf8_lossy(&copied.stderr)
    );

    let mut terminal = TestTerminal::open(&api, "visits", "main").await;
    terminal
        .type_in("claude -p 'Count visits in the database' --dangerously-skip-permissions; echo ended:$?\r")
        .await;
    terminal.until("The application counts its visits.").await;
    terminal.until("ended:0").await;

    api.until_port("visits", 3000).await;
    let preview_client = PreviewClient::owner(&world);
    let first = preview_client.open("visits", 3000, "/").await;
    let second = preview_client.open("visits", 3000, "/").await;
    assert_eq!(
        (first.body.as_str(), second.body.as_str()),
        ("<h1>visit 1</h1>", "<h1>visit 2</h1>")
    );
    assert_eq!(
        api.shell("visits", "psql -Atc 'select count(*) from visits'")
            .await
            .trim(),
        "2"
    );

    let received = received.lock().expect("the received requests").clone();
    assert!(
        received.keys.iter().all(|key| key.contains("sk-scripted")),
        "{:?}",
        received.keys
    );
    assert!(
        received.results.iter().any(|result| result.contains("42")),
        "{:?}",
        received.results
    );
    // The key was added outside the sandbox, and the usage was counted.
    let seen = api
        .shell(
            "visits",
            "env; cat /proc/[0-9]*/environ 2>/dev/null; grep -rs sk-scripted ~ /etc /tmp || true",
        )
        .await;
    assert!(!seen.contains("sk-scripted"), "{seen}");
    assert!(seen.contains("ANTHROPIC_BASE_URL=http://127.0.0.1:7682/anthropic"));
    // A request is counted after its response has ended.
    let counted = async {
        loop {
            let account: AgentAccount = api.get("/api/projects/visits/agent").await;
            let requests: i64 = account.models.iter().map(|model| model.requests).sum();
            if requests >= 3 {
                return account;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let account = tokio::time::timeout(Duration::from_secs(240), counted)
        .await
        .expect("three requests are counted");
    assert!(account.spent > Micros(0), "{account:?}");
    let sandbox = api.sandbox("visits").await;
    assert_eq!(
        sandbox.ports.iter().map(|port| port.port).collect::<Vec<_>>(),
        [3000]
    );
    drop(terminal);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unmodified_next_js_and_flask_applications_run_on_3000_and_5000() {
    let world = web_world();
    let api = world.api();
    api.create_as(CreateProject {
        name: "apps".into(),
        ..CreateProject::default()
    })
    .await;
    api.until_running("apps").await;
    let apps = test_apps();
    for (from, to) in [("next", "apps:."), ("wheels", "apps:wheels")] {
        let copied = world.fsa(&["cp", apps.join(from).to_str().expect("a path"), to]);
        assert!(
            copied.status.success(),
            "{}",
            String::from_utf8_lossy(&copied.stderr)
        );
    }
    api.put(
        "apps",
        "app/layout.js",
        "export default function Layout({ children }) { return <html><body>{children}</body></html>; }\n",
    )
    .await;
    api.put(
        "apps",
        "app/page.js",
        "export default function Page() { return <main>Next.js says {40 + 2}</main>; }\n",
    )
    .await;
    api.put(
        "apps",
        "app.py",
        "import os, flask, psycopg\n\
         app = flask.Flask(__name__)\n\
         @app.get('/')\n\
         def index():\n    \
             by_url, by_variables = [\n        \
                 psycopg.connect(to).execute('SELECT current_database()').fetchone()[0]\n        \
                 for to in (os.environ['POSTGRES_URL'], '')]\n    \
             return f'Flask has {by_url} and {by_variables}'\n",
    )
    .await;
    api.shell(
        "apps",
        "python3 -m venv .venv && .venv/bin/pip install --quiet --no-index --find-links wheels flask 'psycopg[binary]'",
    )
    .await;
    api.put(
        "apps",
        "Procfile",
        "web: npx next dev\napi: .venv/bin/flask run --host 0.0.0.0 --port 5000\n",
    )
    .await;
    api.until_port("apps", 3000).await;
    api.until_port("apps", 5000).await;
    let preview_client = PreviewClient::owner(&world);
    let next = preview_client.open("apps", 3000, "/").await;
    assert!(
        next.status.is_success() && next.body.contains("Next.js says"),
        "{next:?}"
    );
    let flask = preview_client.open("apps", 5000, "/").await;
    let database = api.shell("apps", "psql -Atc 'SELECT current_database()'").await;
    assert_eq!(flask.body, format!("Flask has {0} and {0}", database.trim()));
    world.finish().await;
}

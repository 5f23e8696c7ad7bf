// Which crate may depend on which, and which module may import which. scripts/check-layers.mjs reads this file, and
// `make lint` runs it. A new crate or a new top module of a crate below gets its place here.

/** Each crate of ours, with the crates of ours that it may depend on. Dependencies for tests are free. */
export const crates = {
  'fsa-cli': ['fsa-server', 'fsa-local', 'fsa-kubernetes', 'fsa-web', 'fsa-driver', 'fsa-model'],
  'fsa-server': ['fsa-backup', 'fsa-sandboxd-client', 'fsa-driver', 'fsa-model'],
  'fsa-local': ['fsa-driver', 'fsa-model'],
  'fsa-kubernetes': ['fsa-sandboxd-client', 'fsa-driver', 'fsa-model'],
  'fsa-driver-testing': ['fsa-sandboxd-client', 'fsa-driver', 'fsa-model'], // only tests depend on it
  'fsa-sandboxd-client': ['fsa-driver', 'fsa-model'],
  'fsa-sandboxd': ['fsa-model'],
  'fsa-driver': ['fsa-model'],
  'fsa-model': [],
  'fsa-web': [],
  'fsa-backup': [],
};

/**
 * The top modules of a crate's src folder, layer by layer, from top to bottom. A module may import the modules of its
 * own layer and of the layers below, and imports must not form a cycle.
 *
 * `allowed` lists violations that are still to be removed, as [from, to]. An entry without such an import is an error,
 * so the list only shrinks.
 */
export const modules = {
  'crates/server': {
    layers: [
      ['listener'], // connections: to the main host or to the gateway
      ['api'], // HTTP handlers
      ['state'], // what handlers and the listener see
      ['gateway'], // previews
      ['reconcile'], // the reconciliation loop
      ['callback'], // requests from a sandbox
      ['tasks', 'git', 'llm_proxy', 'github', 'git_credentials'], // use cases
      ['projects'],
      ['sandbox_client'], // requests to the sandboxd of a project's sandbox
      ['auth'],
      ['extract'], // extractors of handlers
      ['core'], // what every use case needs
      ['credential_cache', 'github_client', 'login_throttle', 'rate_limit'],
      ['store'], // all SQL
      ['regions', 'metrics'],
      ['backups'], // content of backups, and the repository
      ['encryption', 'settings'],
      ['pricing'],
      ['error'],
      ['tunnel', 'keyed_count'], // independent of the other modules
    ],
    allowed: [],
  },

  'crates/local': {
    layers: [
      ['project_databases'], // one server per volume
      ['driver'],
      ['database_proxy'],
      ['runner'], // the privileged half
      ['protocol'], // messages between driver and runner
      ['images', 'postgres', 'malloc_arenas', 'privileges'],
    ],
  },

  'crates/kubernetes': {
    layers: [
      ['checks', 'debug'], // fsa doctor, fsa debug
      ['databases'],
      ['driver'],
      ['warnings', 'reflectors'],
      ['cached_object', 'event_diagnosis', 'pod_diagnosis', 'pods', 'project_notify', 'watch_backoff'],
      ['connection'],
      ['drift', 'objects', 'rbac', 'request_metrics'],
      ['settings'],
    ],
    allowed: [],
  },

  'crates/sandboxd': {
    layers: [
      ['boot'],
      ['routes', 'poll_scheduler', 'stop'],
      ['callback', 'exec', 'files', 'start', 'terminal', 'tunnel'], // services
      ['http'], // server, bodies, error responses
      ['sandbox'], // what the services share
      ['logs', 'options', 'poll_trigger', 'ports', 'usage', 'setup'],
      ['pty', 'session', 'spawn', 'environment'],
      ['reaper', 'user'],
    ],
    allowed: [],
  },

  'crates/cli': {
    layers: [
      ['commands'],
      ['args', 'input', 'websocket'],
      ['client', 'output'],
      ['loopback_names'],
      ['credentials'],
      ['config'], // settings of `fsa serve`, and the only place that reads the environment
      ['failure'],
    ],
  },
};

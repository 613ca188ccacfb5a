//! The text below the options in `--help`.

pub(super) const SCENARIO: &str = "Scenario";

pub(super) const OVERVIEW: &str = "\
Start against `warden dev`. The line that `warden dev --json` prints contains the secret and the database:
  export DATABASE_URL=postgres://... WARDEN_JWT_SECRET=...
  warden-loadtest steady --html report.html
`warden-loadtest <scenario> --help` lists the options and examples of a scenario.

Every scenario has these steps:
  1. It creates --orgs organisations named `loadtest <run> <n>` in public.organizations.
  2. It opens --sockets sockets, each with a token of its own (HS256), and joins every topic of --topics.
  3. It makes --rate changes per second for --duration, whether or not the gateway keeps up.
  4. It waits until every socket has received every required change, at most for --settle.
  5. It removes the organisations and their calls, and prints the report.
Ctrl-C ends step 3. A second Ctrl-C ends step 4. A third one exits immediately and leaves the organisations.

Exit codes:
  0  every event arrived exactly once, in order, and at its own organisation; --slo holds
  1  an event was lost, duplicated, out of order or leaked, or a socket failed to open or was dropped
  2  wrong usage, or the gateway or the database could not be reached
  3  only --slo does not hold

Build with --release: a debug build measures mostly itself.";

pub(super) const STEADY: &str = "\
Examples:
  # 5,000 sockets over 10 organisations, 50 changes per second: 25,000 events per second
  warden-loadtest steady --sockets 5000 --orgs 10 --rate 50 --duration 60s --html report.html

  # Half of all sockets belong to one organisation
  warden-loadtest steady --sockets 5000 --orgs 100 --skew one-large

  # 10,000 filters, of which the first ones have most sockets and changes. A change arrives where a filter selects it
  warden-loadtest steady --sockets 20000 --orgs 1 --filters 10000 --rate 50

  # How much memory do 10,000 idle sockets take?
  warden-loadtest steady --sockets 10000 --rate 0 --duration 30s

  # 80,000 sockets over five gateways
  warden-loadtest steady --sockets 80000 --orgs 400 --connect-rate 4000 \\
    --url ws://127.0.0.1:4001/socket,ws://127.0.0.1:4002/socket,ws://127.0.0.1:4003/socket \\
    --url ws://127.0.0.1:4004/socket --url ws://127.0.0.1:4005/socket

  # In scripts: one JSON object on standard output, and an exit code
  warden-loadtest steady --slo 'p99<50ms,loss=0,leak=0' --json | jq .latency_ms.p99";

pub(super) const RAMP: &str = "\
The sockets connect in --steps equal steps over --duration, within each step as fast as --connect-rate allows.
The report shows latencies by step. A change belongs to the step in which it was due.

Example:
  # 2,000, 4,000, ... 10,000 sockets, 20 s each
  warden-loadtest ramp --sockets 10000 --steps 5 --duration 100s --rate 50 --html ramp.html";

pub(super) const BURST: &str = "\
A burst is one transaction with --burst changes of one organisation; the organisations alternate. --rate is not
used.

Example:
  # Every second 200 sockets of one organisation receive 50 events at once
  warden-loadtest burst --sockets 200 --orgs 1 --burst 50 --every 1s --duration 30s";

pub(super) const STORM: &str = "\
After a quarter of --duration the sockets drop without a Close, as in a network failure. After --away they
reconnect, each with the cursor of its last event, while changes continue. Every missed event must arrive
once. The report shows how long the sockets took to reconnect and to catch up, counted from the moment at
which they were due to reconnect.

Example:
  # 5,000 sockets are away for 10 s, and reconnect all at once
  warden-loadtest storm --sockets 5000 --orgs 20 --rate 200 --away 10s --duration 40s";

pub(super) const CHURN: &str = "\
A leaving socket waits until it has received every change that was announced before it left. The new socket
must receive every change that is announced after the answer to its join.

Example:
  # 2,000 sockets, 200 of which are replaced every second
  warden-loadtest churn --sockets 2000 --orgs 20 --churn-rate 200 --duration 30s";

pub(super) const NOISY: &str = "\
In the second third of --duration the first organisation makes --flood additional changes per second. The
report shows the latencies of the other organisations before, during and after the flood. With
--skew one-large the flood also reaches many sockets.

Example:
  # 4,000 of 5,000 sockets receive 100 additional events per second; are the other 1,000 slowed down?
  warden-loadtest noisy --sockets 5000 --orgs 20 --skew one-large:0.8 --flood 100 --duration 60s";

pub(super) const SOAK: &str = "\
As steady, for one hour unless --duration is given. The report shows the growth of the gateway's memory after
the first quarter, in MiB per hour.

Example:
  warden-loadtest soak --sockets 2000 --orgs 20 --rate 100 --duration 8h --slo 'growth<5MiB' --html soak.html";

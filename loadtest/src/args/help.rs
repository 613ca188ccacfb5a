//! What `--help` teaches below the options.

pub(super) const SCENARIO: &str = "Scenario";

pub(super) const OVERVIEW: &str = "\
Where to start: against `warden dev`, whose `--json` line has the secret and the database,
  export DATABASE_URL=postgres://... WARDEN_JWT_SECRET=...
  warden-loadtest steady --html report.html
`warden-loadtest <scenario> --help` has the options and examples of each.

What every scenario does, in order:
  1. Makes --orgs organisations named `loadtest <run> <n>` in public.organizations.
  2. Opens --sockets sockets, each with a token of its own (HS256), and joins every one of --topics.
  3. Makes --rate changes a second for --duration, whether or not the gateway keeps up.
  4. Waits until every socket has every change that it must see, at most --settle.
  5. Removes the organisations and their calls, and prints the report.
Ctrl-C stops publishing and goes on with 4; a second Ctrl-C skips 4; a third leaves at once, and
leaves the organisations behind.

Exit codes:
  0  every event arrived exactly once, in order, and none at another organisation; --slo holds
  1  something was lost, doubled, out of order or leaked, or a socket was refused or dropped
  2  wrong usage, or the gateway or the database could not be reached
  3  only --slo does not hold

Build it with --release: a debug build is slow enough to measure mostly itself.";

pub(super) const STEADY: &str = "\
Examples:
  # 5,000 sockets over 10 organisations, 50 changes a second: 25,000 events a second
  warden-loadtest steady --sockets 5000 --orgs 10 --rate 50 --duration 60s --html report.html

  # Half of all sockets are one organisation's
  warden-loadtest steady --sockets 5000 --orgs 100 --skew one-large

  # How much memory do 10,000 idle sockets take?
  warden-loadtest steady --sockets 10000 --rate 0 --duration 30s

  # 80,000 sockets over five gateways
  warden-loadtest steady --sockets 80000 --orgs 400 --connect-rate 4000 \\
    --url ws://127.0.0.1:4001/socket,ws://127.0.0.1:4002/socket,ws://127.0.0.1:4003/socket \\
    --url ws://127.0.0.1:4004/socket --url ws://127.0.0.1:4005/socket

  # For scripts: one JSON object on standard output, and an exit code
  warden-loadtest steady --slo 'p99<50ms,loss=0,leak=0' --json | jq .latency_ms.p99";

pub(super) const RAMP: &str = "\
The sockets come in --steps equal steps over --duration, each as fast as --connect-rate allows; the
report tells latencies apart by step, by the moment at which a change was due.

Example:
  # 2,000, 4,000, ... 10,000 sockets, 20 s each
  warden-loadtest ramp --sockets 10000 --steps 5 --duration 100s --rate 50 --html ramp.html";

pub(super) const BURST: &str = "\
A burst is one transaction of --burst changes in one organisation; the organisations take turns.
--rate is not used.

Example:
  # 200 sockets of one organisation get 50 events at once, every second
  warden-loadtest burst --sockets 200 --orgs 1 --burst 50 --every 1s --duration 30s";

pub(super) const STORM: &str = "\
After a quarter of --duration the sockets drop without a word, as where a network fails. After --away
they come back, each with the cursor of its last event, while changes go on. What they missed must
arrive once. The report says how long it took until they were back, and until they had caught up,
counted from the moment at which they were to come back.

Example:
  # 5,000 sockets are away for 10 s, and all come back at once
  warden-loadtest storm --sockets 5000 --orgs 20 --rate 200 --away 10s --duration 40s";

pub(super) const CHURN: &str = "\
A socket that leaves waits until it has seen what was committed before; the new one must see what is
committed after its join was answered.

Example:
  # 2,000 sockets, 200 of which are replaced every second
  warden-loadtest churn --sockets 2000 --orgs 20 --churn-rate 200 --duration 30s";

pub(super) const NOISY: &str = "\
In the second third of --duration the first organisation makes --flood changes a second more. The
report tells the others' latencies apart: before, during and after. With --skew one-large the flood
also reaches many sockets.

Example:
  # 4,000 of 5,000 sockets get 100 more events a second; what do the other 1,000 feel?
  warden-loadtest noisy --sockets 5000 --orgs 20 --skew one-large:0.8 --flood 100 --duration 60s";

pub(super) const SOAK: &str = "\
As steady, for an hour unless --duration says otherwise. The report has the growth of the gateway's
memory from the second quarter of the time to the last, in MiB an hour.

Example:
  warden-loadtest soak --sockets 2000 --orgs 20 --rate 100 --duration 8h --slo 'growth<5MiB' --html soak.html";

// The official SDK of CloudEvents publishes one event in each mode that it can emit, and one of them twice.
//
// Environment: URL (http://.../v1/events), TOKEN, TOPIC. Prints the answer to each request on a line.

import { CloudEvent, Mode, emitterFor, httpTransport } from "cloudevents";

const { URL: url, TOKEN: token, TOPIC: topic } = process.env;
const options = { headers: { authorization: `Bearer ${token}` } };
const transport = httpTransport(url);
const event = (n) => new CloudEvent({ source: "/sdk/javascript", type: "test.event", subject: topic, data: { n } });

const binary = event(1);
const structured = event(2);
for (const [mode, sent] of [[Mode.BINARY, binary], [Mode.STRUCTURED, structured], [Mode.BINARY, structured]]) {
  const { body } = await emitterFor(transport, { mode })(sent, options);
  console.log(body);
}

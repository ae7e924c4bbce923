// The older device SDK's shadows: an app wishes, the device hears the difference and reports, the
// app hears that, and both can ask.
'use strict';

const { thingShadow } = require('aws-iot-device-sdk');

const place = { protocol: 'wss', host: 'localhost', port: Number(process.argv[2]), region: 'eu-west-1' };
const thing = 'valve-1';

function fail(why) {
  console.error(why);
  process.exit(1);
}

setTimeout(() => fail('nothing happened for 30 s'), 30000).unref();

const device = thingShadow({ ...place, clientId: 'device' });
const app = thingShadow({ ...place, clientId: 'app' });
for (const client of [device, app]) client.on('error', (error) => fail(error.message));

const ready = (client, options) => new Promise((done) => {
  client.on('connect', () => client.register(thing, options, () => done()));
});

device.on('delta', (name, { state, version }) => {
  if (name !== thing || state.open !== true || version !== 1) fail(`delta ${version} ${JSON.stringify(state)}`);
  device.update(thing, { state: { reported: { open: true } } });
});

let steps = 0;
app.on('status', (name, status, token, answer) => {
  if (status !== 'accepted') fail(`${status}: ${JSON.stringify(answer)}`);
  steps += 1;
  if (steps === 2) {
    const { state, version } = answer;
    if (version !== 2 || state.delta || !state.reported.open) fail(JSON.stringify(answer));
    app.delete(thing);
  }
  if (steps === 3) {
    console.log('SHADOW V1 HOLDS');
    process.exit(0);
  }
});
app.on('foreignStateChange', (name, operation, { state }) => {
  if (operation !== 'update' || state.reported.open !== true) fail(JSON.stringify(state));
  app.get(thing);
});

Promise.all([ready(device), ready(app, { ignoreDeltas: true })]).then(() => {
  app.update(thing, { state: { desired: { open: true } } });
});

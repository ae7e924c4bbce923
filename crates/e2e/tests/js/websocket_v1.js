// The older device SDK over a signed WebSocket: with the account's key it is let in and a reading
// comes back; with a wrong secret it is not.
'use strict';

const { device } = require('aws-iot-device-sdk');

const place = { protocol: 'wss', host: 'localhost', port: Number(process.argv[2]), region: 'eu-west-1' };

function fail(why) {
  console.error(why);
  process.exit(1);
}

function wrong() {
  const secretKey = `${process.env.AWS_SECRET_ACCESS_KEY.slice(0, -1)}?`;
  const refused = device({ ...place, clientId: 'wrong', secretKey });
  refused.on('connect', () => fail('a wrong secret was let in'));
  // It takes the refusal as a lost connection, and tries again for ever.
  refused.on('close', () => {
    console.log('WEBSOCKET V1 HOLDS');
    process.exit(0);
  });
}

const right = device({ ...place, clientId: 'right' });
right.on('error', (error) => fail(error.message));
right.on('connect', () => right.subscribe('roof/page', { qos: 1 }, (error) => {
  if (error) fail(error.message);
  right.publish('roof/page', '{"ozone":1}', { qos: 1 });
}));
right.on('message', (topic, payload) => {
  if (topic !== 'roof/page' || payload.toString() !== '{"ozone":1}') fail(`${topic} ${payload}`);
  right.end(true, wrong);
});
setTimeout(() => fail('nothing happened for 30 s'), 30000).unref();

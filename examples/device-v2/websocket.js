#!/usr/bin/env node
// MQTT 5 over WebSocket without a certificate, with the AWS IoT device SDK for JavaScript,
// version 2: the request for the WebSocket is signed with an access key.
//
//   npm install aws-iot-device-sdk-v2
//   eval "$(forebay env)"
//   node websocket.js ROOT_CA [--count N] [--host H] [--port P] [--topic T] [--region R]
//
// Whoever holds a key of the account may do everything, so this is for dashboards and tools of
// its owner; a device has a kit.
'use strict';

const { auth, iot, mqtt5 } = require('aws-iot-device-sdk-v2');
const { once } = require('events');
const { reading, counter } = require('./kit');

async function main() {
  const [rootCa, ...rest] = process.argv.slice(2);
  if (!rootCa) throw new Error('name the file of the root certificate');
  const given = { host: 'localhost', port: 8083, topic: 'pollution/page', count: 10, region: 'eu-west-1' };
  for (let i = 0; i < rest.length; i += 2) given[rest[i].replace(/^--/, '')] = rest[i + 1];
  const count = Number(given.count);
  const config = iot.AwsIotMqtt5ClientConfigBuilder
    .newWebsocketMqttBuilderWithSigv4Auth(given.host, {
      region: given.region,
      credentialsProvider: auth.AwsCredentialsProvider.newDefault(),
    })
    .withCertificateAuthorityFromPath(undefined, rootCa)
    .withPort(Number(given.port))
    .withConnectProperties({ clientId: `page-${process.pid}`, keepAliveIntervalSeconds: 30 })
    .build();
  const client = new mqtt5.Mqtt5Client(config);
  client.on('connectionFailure', (event) => console.error('refused', event.error.message));
  const back = counter('readings back', count);
  client.on('messageReceived', () => back.done());

  const connected = once(client, 'connectionSuccess');
  client.start();
  await connected;
  await client.subscribe({
    subscriptions: [{ topicFilter: given.topic, qos: mqtt5.QoS.AtLeastOnce }],
  });
  for (let number = 1; number <= count; number++) {
    await client.publish({
      topicName: given.topic,
      qos: mqtt5.QoS.AtLeastOnce,
      payload: JSON.stringify(reading(number)),
    });
    console.log('acknowledged', number);
  }
  await back.reached;
  const stopped = once(client, 'stopped');
  client.stop();
  await stopped;
  client.close();
  console.log('DEVICE OK websocket', count);
}

// The SDK's event loop would hold the process some seconds longer.
main().then(() => process.exit(0)).catch((error) => {
  console.error(error.message || error);
  process.exit(1);
});

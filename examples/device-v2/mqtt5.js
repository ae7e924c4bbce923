#!/usr/bin/env node
// MQTT 5 over mutual TLS with the AWS IoT device SDK for JavaScript, version 2.
//
//   npm install aws-iot-device-sdk-v2
//   node mqtt5.js KIT [--count N] [--host H] [--port P] [--topic T]
//
// As mqtt311.js, with what version 5 adds: what the server grants, a content type and user
// properties that arrive as they were sent, and reason codes.
'use strict';

const { iot, mqtt5 } = require('aws-iot-device-sdk-v2');
const { once } = require('events');
const { fromCommandLine, reading, counter } = require('./kit');

async function main() {
  const kit = fromCommandLine(process.argv.slice(2));
  const config = iot.AwsIotMqtt5ClientConfigBuilder
    .newDirectMqttBuilderWithMtlsFromPath(kit.host, kit.certificate, kit.privateKey)
    .withCertificateAuthorityFromPath(undefined, kit.rootCa)
    .withPort(kit.port)
    .withConnectProperties({ clientId: kit.thing, keepAliveIntervalSeconds: 30 })
    .build();
  const client = new mqtt5.Mqtt5Client(config);
  client.on('error', (error) => console.error('error', error.message));
  client.on('connectionFailure', (event) => {
    console.error('refused', event.error.message, event.connack && event.connack.reasonString);
  });

  const back = counter('readings back', kit.count);
  client.on('messageReceived', ({ message }) => {
    const station = (message.userProperties || []).find(({ name }) => name === 'station');
    if (message.contentType !== 'application/json' || !station || station.value !== kit.thing) {
      throw new Error(`a property was lost: ${JSON.stringify(message)}`);
    }
    back.done();
  });

  const connected = once(client, 'connectionSuccess');
  client.start();
  const [{ settings }] = await connected;
  console.log('connected; at most', settings.receiveMaximumFromServer, 'in flight,',
    settings.maximumPacketSizeToServer, 'bytes a packet');
  const grant = await client.subscribe({
    subscriptions: [{ topicFilter: kit.topic, qos: mqtt5.QoS.AtLeastOnce }],
  });
  if (grant.reasonCodes[0] >= 128) {
    throw new Error(`subscription refused: ${grant.reasonCodes[0]} ${grant.reasonString || ''}`);
  }
  for (let number = 1; number <= kit.count; number++) {
    const { reasonCode, reasonString } = await client.publish({
      topicName: kit.topic,
      qos: mqtt5.QoS.AtLeastOnce,
      payload: JSON.stringify(reading(number)),
      contentType: 'application/json',
      userProperties: [{ name: 'station', value: kit.thing }],
    });
    if (reasonCode >= 128) throw new Error(`publish refused: ${reasonCode} ${reasonString || ''}`);
    console.log('acknowledged', number);
  }
  await back.reached;
  const stopped = once(client, 'stopped');
  client.stop();
  await stopped;
  client.close();
  console.log('DEVICE OK 5', kit.count);
}

// The SDK's event loop would hold the process some seconds longer.
main().then(() => process.exit(0)).catch((error) => {
  console.error(error.message || error);
  process.exit(1);
});

#!/usr/bin/env node
// MQTT 3.1.1 over mutual TLS with the AWS IoT device SDK for JavaScript, version 2.
//
//   npm install aws-iot-device-sdk-v2
//   node mqtt311.js KIT [--count N] [--host H] [--port P] [--topic T]
//
// Subscribes to its own topic, publishes readings at QoS 1, and ends when each came back.
'use strict';

const { io, iot, mqtt } = require('aws-iot-device-sdk-v2');
const { fromCommandLine, reading, counter } = require('./kit');

async function main() {
  const kit = fromCommandLine(process.argv.slice(2));
  const config = iot.AwsIotMqttConnectionConfigBuilder
    .new_mtls_builder_from_path(kit.certificate, kit.privateKey)
    .with_certificate_authority_from_path(undefined, kit.rootCa)
    .with_client_id(kit.thing)
    .with_endpoint(kit.host)
    .with_port(kit.port)
    .with_clean_session(true)
    .with_keep_alive_seconds(30)
    .build();
  const connection = new mqtt.MqttClient(new io.ClientBootstrap()).new_connection(config);
  connection.on('error', (error) => console.error('error', error.message));

  const resumed = await connection.connect();
  console.log('connected, session', resumed ? 'resumed' : 'new');
  const back = counter('readings back', kit.count);
  const grant = await connection.subscribe(kit.topic, mqtt.QoS.AtLeastOnce, () => back.done());
  console.log('subscribed to', grant.topic, 'at QoS', grant.qos);
  for (let number = 1; number <= kit.count; number++) {
    await connection.publish(kit.topic, JSON.stringify(reading(number)), mqtt.QoS.AtLeastOnce);
    console.log('acknowledged', number);
  }
  await back.reached;
  await connection.disconnect();
  console.log('DEVICE OK 3.1.1', kit.count);
}

main().catch((error) => {
  console.error(error.message || error);
  process.exit(1);
});

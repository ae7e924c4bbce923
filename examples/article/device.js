#!/usr/bin/env node
// An air-quality station on the AWS IoT device SDK for JavaScript, version 1.
//
//   npm install aws-iot-device-sdk
//   node device.js KIT [--count N] [--interval MS] [--host H] [--port P] [--topic T]
//
// KIT is a folder as `forebay device add` or pipeline.py writes it. Each reading is published
// at QoS 1; `acknowledged N` is printed when the server has it on stable storage. A lost
// connection is the SDK's business: it comes back and sends what was not acknowledged.
'use strict';

const fs = require('fs');
const path = require('path');
const { device } = require('aws-iot-device-sdk');

function options(words) {
  const given = { kit: words[0], count: 0, interval: 4000 };
  for (let i = 1; i < words.length; i += 2) {
    const name = words[i].replace(/^--/, '');
    if (!['count', 'interval', 'host', 'port', 'topic'].includes(name) || words[i + 1] === undefined) {
      throw new Error(`unknown option ${words[i]}`);
    }
    given[name] = ['count', 'interval', 'port'].includes(name) ? Number(words[i + 1]) : words[i + 1];
  }
  if (!given.kit) throw new Error('name the folder of the kit');
  return given;
}

// The thing's name starts the name of each of its files.
function readKit(folder) {
  const certificate = fs.readdirSync(folder).find((name) => name.endsWith('.cert.pem'));
  if (!certificate) throw new Error(`${folder} holds no .cert.pem`);
  const thing = certificate.slice(0, -'.cert.pem'.length);
  const notes = path.join(folder, 'connection.json');
  const noted = fs.existsSync(notes) ? JSON.parse(fs.readFileSync(notes, 'utf8')) : {};
  return { thing, host: 'localhost', port: 8883, topic: `pollution/${thing}`, ...noted };
}

function reading(number) {
  const level = () => Math.round(Math.random() * 100);
  return {
    ozone: level(),
    particullate_matter: level(),
    carbon_monoxide: level(),
    sulfure_dioxide: level(),
    nitrogen_dioxide: level(),
    longitude: 10.250786139881143,
    latitude: 56.20251117218925,
    timestamp: new Date(),
    reading: number,
  };
}

const given = options(process.argv.slice(2));
const kit = { ...readKit(given.kit), ...given };
const file = (ending) => path.join(given.kit, ending);

const station = device({
  clientId: kit.thing,
  host: kit.host,
  port: kit.port,
  keyPath: file(`${kit.thing}.private.key`),
  certPath: file(`${kit.thing}.cert.pem`),
  caPath: file('root-CA.crt'),
  baseReconnectTimeMs: 250,
  // What was published while offline goes out at this pace; the SDK's own is 250 ms.
  drainTimeMs: 10,
});

let sent = 0;
let acknowledged = 0;
const timer = setInterval(() => {
  const number = ++sent;
  station.publish(kit.topic, JSON.stringify(reading(number)), { qos: 1 }, (error) => {
    if (error) return console.log('failed', number, error.message);
    console.log('acknowledged', number);
    if (++acknowledged === given.count) station.end(false, () => process.exit(0));
  });
  if (sent === given.count) clearInterval(timer);
}, given.interval);

for (const event of ['connect', 'reconnect', 'offline', 'close']) {
  station.on(event, () => console.error(event));
}
station.on('error', (error) => console.error('error', error.message));

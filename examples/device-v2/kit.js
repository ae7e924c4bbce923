// What both examples share: the command line, the kit, and the reading.
'use strict';

const fs = require('fs');
const path = require('path');

// Reads `KIT [--host H] [--port P] [--topic T] [--count N]`.
function fromCommandLine(words) {
  const [folder, ...rest] = words;
  if (!folder) throw new Error('name the folder of the kit');
  const certificate = fs.readdirSync(folder).find((name) => name.endsWith('.cert.pem'));
  if (!certificate) throw new Error(`${folder} holds no .cert.pem`);
  const thing = certificate.slice(0, -'.cert.pem'.length);
  const notes = path.join(folder, 'connection.json');
  const noted = fs.existsSync(notes) ? JSON.parse(fs.readFileSync(notes, 'utf8')) : {};
  const given = {};
  for (let i = 0; i < rest.length; i += 2) given[rest[i].replace(/^--/, '')] = rest[i + 1];
  const all = { host: 'localhost', port: 8883, topic: `pollution/${thing}`, count: 10, ...noted, ...given };
  return {
    thing,
    host: all.host,
    port: Number(all.port),
    topic: all.topic,
    count: Number(all.count),
    certificate: path.join(folder, certificate),
    privateKey: path.join(folder, `${thing}.private.key`),
    rootCa: path.join(folder, 'root-CA.crt'),
  };
}

function reading(number) {
  return {
    ozone: Math.round(Math.random() * 100),
    timestamp: new Date().toISOString(),
    reading: number,
  };
}

// Fulfilled when `done` was called `count` times; rejected after half a minute.
function counter(what, count) {
  let seen = 0;
  let resolve;
  const reached = new Promise((fulfil, reject) => {
    resolve = fulfil;
    setTimeout(() => reject(new Error(`${seen} of ${count} ${what} in 30 s`)), 30000).unref();
  });
  return { reached, done: () => ++seen === count && resolve() };
}

module.exports = { fromCommandLine, reading, counter };

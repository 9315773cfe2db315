// Prints one line per case, what failed and why, and a closing line "N passed, N failed".

export default async function* report(events) {
  let passed = 0;
  let failed = 0;
  for await (const { type, data } of events) {
    if (type === 'test:stdout' || type === 'test:stderr') yield data.message;
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    const duration = `${(data.details.duration_ms / 1000).toFixed(1)} s`;
    if (type === 'test:pass') {
      passed += 1;
      yield `  ok    ${data.name} (${duration})\n`;
    } else {
      failed += 1;
      const error = data.details.error.cause ?? data.details.error;
      yield `  FAIL  ${data.name} (${duration})\n${indented(error.stack ?? String(error))}\n`;
    }
  }
  yield `${passed} passed, ${failed} failed\n`;
}

const indented = (text) => text.replaceAll(/^/gm, '        ');

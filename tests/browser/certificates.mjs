/** A root and a certificate for loopback names and what else is named, made by openssl for one run of a test. */
import { execFile } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
const extensions = (...all) => all.flatMap((extension) => ['-addext', extension]);

/** @param {string[]} [names] besides loopback's, as OpenSSL has them (`IP:10.78.0.1`) */
export async function makeCertificates(names = []) {
  // Readable by its owner only, as the server wants its key to be.
  const folder = await mkdtemp(join(tmpdir(), 'fulmar-certificates-'));
  const [root, rootKey, request, certificate, key] =
    ['root.pem', 'root.key', 'request.pem', 'certificate.pem', 'key.pem'].map((file) => join(folder, file));
  await run('openssl', ['req', '-x509', ...KEY, '-days', '30', '-subj', '/CN=Root of a Fulmar test',
    ...extensions('keyUsage=critical,keyCertSign,cRLSign'), '-keyout', rootKey, '-out', root]);
  await run('openssl', ['req', ...KEY, '-subj', '/CN=localhost',
    ...extensions(`subjectAltName=${['DNS:localhost', 'IP:127.0.0.1', ...names]}`, 'extendedKeyUsage=serverAuth'), '-keyout', key, '-out', request]);
  await run('openssl', ['x509', '-req', '-in', request, '-CA', root, '-CAkey', rootKey, '-CAcreateserial', '-days', '30',
    '-copy_extensions', 'copy', '-out', certificate]);
  await Promise.all([rootKey, key].map((file) => chmod(file, 0o600)));
  return { folder, root, certificate, key, remove: () => rm(folder, { recursive: true }) };
}

// The authorization server of the integration tests: panva's oidc-provider, configured only (no protocol code of ours),
// with a fault injector and counters in front of it.
//
// Environment:
//   OP_CERTS       directory with ca.pem, server.pem, server.key, client-self.pem, client-self2.pem and the public keys
//                  client-jwt-rsa.pub.pem, client-jwt-ec.pub.pem (required)
//   OP_PORT        plain HTTP listener           (0, the default, takes a free port; the same holds for the next two)
//   OP_TLS_PORT    HTTPS listener, asks for client certificates
//   OP_ADMIN_PORT  counters and faults
//   OP_AT_TTL      lifetime of an access token in seconds (5)
//   OP_REDIRECTS   redirect URIs of the client `web`, separated by commas; without them there is no such client, and no login page
//   OP_TLS_REJECT  1: the TLS handshake itself refuses a client without a certificate of our CA
//
// When it is ready it prints one line of JSON to stdout: {"issuer":...,"mtls":...,"admin":...}. Everything else goes to
// stderr. It ends when its stdin ends, so that it never outlives the test process that started it, however that one died.
//
// Admin: GET /stats, POST /reset, POST /withdraw (all people's consents), POST /faults with a list of
//   {"path":"/token","times":1,"delayBefore":ms,"delayAfter":ms,"status":503,"headers":{},"body":"","after":true,
//    "dropBefore":true,"dropAfter":true,"truncate":true,"patch":{},"remove":[]}

import * as fs from 'node:fs';
import * as http from 'node:http';
import * as https from 'node:https';
import * as path from 'node:path';
import { X509Certificate, createPublicKey } from 'node:crypto';
import { Provider } from 'oidc-provider';
import { generateKeyPair, exportJWK } from 'jose';

// oidc-provider prints its notices with console.info; stdout is reserved for the ready line.
console.info = console.error;
console.log = console.error;

const env = process.env;
const HOST = '127.0.0.1';
const AT_TTL = +(env.OP_AT_TTL ?? 5);
if (!env.OP_CERTS) throw new Error('set OP_CERTS to the directory with the certificates');
const pem = (name) => fs.readFileSync(path.join(env.OP_CERTS, name));

// ---- listeners first: the issuer must be known before the provider is made

const listen = (server, port) => new Promise((resolve, reject) => {
  server.once('error', reject);
  server.listen(+(port ?? 0), HOST, () => resolve(server.address().port));
});
const plain = http.createServer();
const tls = https.createServer({
  key: pem('server.key'), cert: pem('server.pem'), ca: [pem('ca.pem')],
  // Not rejecting leaves the decision to the client authentication method, which self-signed certificates need.
  requestCert: true, rejectUnauthorized: env.OP_TLS_REJECT === '1',
});
const admin = http.createServer();
const issuer = `http://${HOST}:${await listen(plain, env.OP_PORT)}`;
const mtls = `https://${HOST}:${await listen(tls, env.OP_TLS_PORT)}`;
const adminURL = `http://${HOST}:${await listen(admin, env.OP_ADMIN_PORT)}`;

// ---- signing keys, in memory only

const signingKeys = { keys: [] };
for (const alg of ['RS256', 'ES256']) {
  const { privateKey } = await generateKeyPair(alg, { modulusLength: 2048, extractable: true });
  signingKeys.keys.push({ ...await exportJWK(privateKey), alg, use: 'sig', kid: `op-${alg}` });
}

// ---- clients

const certJWK = (name) => {
  const cert = new X509Certificate(pem(name));
  return { ...cert.publicKey.export({ format: 'jwk' }), use: 'sig', kid: name, x5c: [cert.raw.toString('base64')] };
};
const withSecret = {
  grant_types: ['client_credentials'], response_types: [], redirect_uris: [], scope: 'api:read api:write',
  client_secret: 'lab-only-lab-only-lab-only-lab-only',
};
const { client_secret: _, ...noSecret } = withSecret;
const subjectDN = 'C=DE,O=Lab,CN=cc-tls';

// The client of people: any name and password sign in; refresh tokens rotate, and a used one ends the whole family.
const redirects = (env.OP_REDIRECTS ?? '').split(',').filter(Boolean);
const web = {
  ...withSecret, client_id: 'web', token_endpoint_auth_method: 'client_secret_basic', grant_types: ['authorization_code', 'refresh_token'],
  response_types: ['code'], redirect_uris: redirects, scope: 'openid offline_access api:read api:write',
};

const clients = [
  ...(redirects.length > 0 ? [web] : []),
  { ...withSecret, client_id: 'cc-basic', token_endpoint_auth_method: 'client_secret_basic' },
  { ...withSecret, client_id: 'cc-post', token_endpoint_auth_method: 'client_secret_post' },
  // RFC 6749 2.3.1: id and secret are form-encoded before Basic. This pair breaks clients which forget it.
  { ...withSecret, client_id: 'cc:odd id', client_secret: 'lab%41only:w+rd ~/=&-padding-padding-padding', token_endpoint_auth_method: 'client_secret_basic' },
  { ...withSecret, client_id: 'cc-long', lab_ttl: 3600 },
  { ...withSecret, client_id: 'cc-1s', lab_ttl: 1 },
  // RFC 8705 2.1: a certificate of a known CA, named by its subject or by a DNS name.
  { ...noSecret, client_id: 'cc-tls', token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_subject_dn: subjectDN },
  { ...noSecret, client_id: 'cc-tls-san', token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_san_dns: 'cc-tls.lab' },
  { ...noSecret, client_id: 'cc-tls-bound', token_endpoint_auth_method: 'tls_client_auth', tls_client_auth_subject_dn: subjectDN, tls_client_certificate_bound_access_tokens: true },
  // RFC 8705 2.2: registered self-signed certificates; two of them, for a change of certificate.
  { ...noSecret, client_id: 'cc-self', token_endpoint_auth_method: 'self_signed_tls_client_auth', jwks: { keys: [certJWK('client-self.pem'), certJWK('client-self2.pem')] } },
  // RFC 8705 3: a secret authenticates, the certificate only binds the token.
  { ...withSecret, client_id: 'cc-bound', tls_client_certificate_bound_access_tokens: true },
  // RFC 7523: assertions signed with a key of the client, or with its secret. oidc-provider refuses a jti that it has seen.
  ...['RS256', 'PS256', 'ES256'].map((alg) => ({
    ...noSecret, client_id: `cc-jwt-${alg}`, token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: alg,
    jwks: { keys: [{ ...createPublicKey(pem(alg === 'ES256' ? 'client-jwt-ec.pub.pem' : 'client-jwt-rsa.pub.pem')).export({ format: 'jwk' }), use: 'sig', kid: 'client-key' }] },
  })),
  { ...withSecret, client_id: 'cc-secret-jwt', token_endpoint_auth_method: 'client_secret_jwt', token_endpoint_auth_signing_alg: 'HS256' },
  // A resource server: it may only introspect.
  { ...withSecret, client_id: 'rs', scope: undefined, grant_types: [] },
].map((client) => JSON.parse(JSON.stringify(client))); // drops the undefined members, which the provider refuses

// ---- the provider

const peerCert = (ctx) => ctx.req.socket.getPeerX509Certificate?.();
const lifetime = (ctx, token, client) => token.resourceServer?.accessTokenTTL ?? client.lab_ttl ?? AT_TTL;

const provider = new Provider(issuer, {
  clients,
  jwks: signingKeys,
  cookies: { keys: ['lab-cookie-key'] },
  scopes: ['openid', 'offline_access', 'api:read', 'api:write', 'api:admin'], // the last one is for no client
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  issueRefreshToken: async (ctx, client) => client.grantTypeAllowed('refresh_token'),
  rotateRefreshToken: true,
  expiresWithSession: async () => false, // tokens outlive the browser's session
  extraClientMetadata: { properties: ['lab_ttl'] },
  clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt', 'tls_client_auth', 'self_signed_tls_client_auth', 'none'],
  ttl: { ClientCredentials: lifetime, AccessToken: lifetime, RefreshToken: 3600, AuthorizationCode: 60, Grant: 86400, Session: 3600, Interaction: 600, IdToken: 600 },
  discovery: { mtls_endpoint_aliases: { token_endpoint: `${mtls}/token`, introspection_endpoint: `${mtls}/token/introspection` } },
  features: {
    devInteractions: { enabled: redirects.length > 0 },
    clientCredentials: { enabled: true },
    revocation: { enabled: true },
    introspection: { enabled: true, allowedPolicy: (ctx, client) => client.clientId === 'rs' },
    // RFC 8707: a resource gives a JWT access token; "ttl=N" in its name sets the lifetime, "opaque" the other format.
    resourceIndicators: {
      enabled: true,
      defaultResource: async (ctx, client, oneOf) => oneOf ?? undefined,
      useGrantedResource: async () => true,
      getResourceServerInfo: async (ctx, resource) => ({
        scope: 'api:read api:write', audience: resource, jwt: { sign: { alg: 'ES256' } },
        accessTokenFormat: resource.includes('opaque') ? 'opaque' : 'jwt',
        accessTokenTTL: +(/ttl=(\d+)/.exec(resource)?.[1] ?? AT_TTL),
      }),
    },
    mTLS: {
      enabled: true, certificateBoundAccessTokens: true, selfSignedTlsClientAuth: true, tlsClientAuth: true,
      getCertificate: peerCert,
      certificateAuthorized: (ctx) => ctx.req.socket.authorized === true,
      certificateSubjectMatches: (ctx, property, expected) => {
        const cert = peerCert(ctx);
        if (!cert) return false;
        if (property === 'tls_client_auth_subject_dn') return cert.subject.split('\n').join(',') === expected;
        if (property === 'tls_client_auth_san_dns') return (cert.subjectAltName ?? '').split(', ').includes(`DNS:${expected}`);
        return false;
      },
    },
  },
});

// ---- counters

let stats;
let faults;
const reset = () => {
  stats = { requests: {}, tokens: {}, events: {}, errors: [] };
  faults = [];
};
reset();
const bump = (counters, key) => { counters[key] = (counters[key] ?? 0) + 1; };

// The consents that were given, so that they can be withdrawn.
const consents = new Set();
provider.on('grant.success', (ctx) => { if (ctx.oidc.entities.Grant) consents.add(ctx.oidc.entities.Grant.jti); });
const withdraw = async () => {
  for (const id of consents) await (await provider.Grant.find(id))?.destroy();
  consents.clear();
  return {};
};

for (const event of ['grant.success', 'grant.error', 'grant.revoked', 'introspection.error', 'server_error']) {
  provider.on(event, (...args) => {
    bump(stats.events, event);
    const err = args.find((arg) => arg instanceof Error);
    if (err && stats.errors.length < 1000) {
      stats.errors.push({ event, error: err.error ?? err.message, detail: err.error_detail ?? err.error_description ?? '' });
    }
    if (event === 'server_error') console.error(err);
  });
}

provider.use(async (ctx, next) => {
  bump(stats.requests, `${ctx.method} ${ctx.path}`);
  if (ctx.path === '/token') {
    // "close" comes for answers that were dropped as well; the client is unknown when a fault kept the provider out.
    ctx.res.on('close', () => {
      const outcome = ctx.res.writableFinished ? ctx.res.statusCode : 'dropped';
      bump(stats.tokens, `${ctx.oidc?.client?.clientId ?? '?'} ${outcome}`);
    });
  }
  return next();
});

// ---- fault injector

const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const answer = (ctx, fault) => {
  ctx.status = fault.status;
  ctx.set(fault.headers ?? {});
  ctx.body = fault.body ?? '';
};
const drop = (ctx) => {
  ctx.respond = false; // Koa writes nothing more
  ctx.req.socket.destroy();
};
const truncate = (ctx) => {
  const whole = Buffer.from(JSON.stringify(ctx.body));
  ctx.respond = false;
  ctx.res.writeHead(200, { 'content-type': 'application/json', 'content-length': whole.length });
  ctx.res.write(whole.subarray(0, whole.length >> 1));
  setTimeout(() => ctx.req.socket.destroy(), 20);
};

provider.use(async (ctx, next) => {
  const fault = faults.find((f) => ctx.path === (f.path ?? '/token') && f.times !== 0);
  if (!fault) return next();
  if (fault.times > 0) fault.times -= 1;
  bump(stats.events, 'fault');

  // Before: the provider never sees the request.
  if (fault.delayBefore) await sleep(fault.delayBefore);
  if (fault.dropBefore) return drop(ctx);
  if (fault.status && !fault.after) return answer(ctx, fault);

  await next();

  // After: the token exists (a refresh token is rotated), only the answer suffers.
  if (fault.delayAfter) await sleep(fault.delayAfter);
  if (fault.dropAfter) return drop(ctx);
  if (fault.truncate) return truncate(ctx);
  if (fault.status) return answer(ctx, fault);
  if (ctx.body && typeof ctx.body === 'object') {
    ctx.body = { ...ctx.body, ...fault.patch };
    for (const member of fault.remove ?? []) delete ctx.body[member];
  }
  return undefined;
});

// ---- admin, then go

admin.on('request', async (req, res) => {
  let body = '';
  for await (const chunk of req) body += chunk;
  const routes = {
    'GET /stats': () => stats,
    'POST /reset': () => { reset(); return {}; },
    'POST /withdraw': withdraw,
    'POST /faults': () => { faults = JSON.parse(body).map((f) => ({ times: -1, ...f })); return faults; },
  };
  const route = routes[`${req.method} ${req.url}`];
  res.writeHead(route ? 200 : 404, { 'content-type': 'application/json' });
  res.end(JSON.stringify(route ? await route() : {}));
});
plain.on('request', provider.callback());
tls.on('request', provider.callback());

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
process.stdout.write(`${JSON.stringify({ issuer, mtls, admin: adminURL })}\n`);

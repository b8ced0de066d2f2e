// OpenFeature's OFREP provider for browsers, unmodified, with the fetch of Node. What a browser would add stands in `page`:
// the origin, the preflight, and that an answer without the right headers is kept from the page.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { OFREPWebProvider } from '@openfeature/ofrep-web-provider'
import { OpenFeature, ProviderEvents } from '@openfeature/web-sdk'

import { Sidecar, waitUntil } from '../support/sidecar.mjs'

const ORIGIN = 'https://app.example'
/** Headers that a page may send without asking. */
const SAFE = ['accept', 'accept-language', 'content-language']

let sidecar

before(async () => {
  sidecar = await Sidecar.start({ PARALLAX_ADMIN_ORIGINS: ORIGIN })
})

after(async () => {
  await OpenFeature.close()
  await sidecar?.stop()
})

/** A fetch as that of a page of `origin`; notes the status of each answer in `statuses`. */
const page = (origin, statuses = []) => async (asked) => {
  const request = new Request(asked)
  const unsafe = [...request.headers.keys()].filter((name) => !SAFE.includes(name)).sort()
  const preflight = await fetch(request.url, {
    method: 'OPTIONS',
    headers: {
      origin,
      'access-control-request-method': request.method,
      'access-control-request-headers': unsafe.join(','),
    },
  })
  const listed = (answer, name) => (answer.headers.get(name) ?? '').toLowerCase().split(',').map((part) => part.trim())
  const isAllowed =
    preflight.ok &&
    preflight.headers.get('access-control-allow-origin') === origin &&
    listed(preflight, 'access-control-allow-methods').includes(request.method.toLowerCase()) &&
    unsafe.every((name) => listed(preflight, 'access-control-allow-headers').includes(name))
  if (!isAllowed) throw new TypeError(`the preflight was answered ${preflight.status}`)
  const headers = new Headers(request.headers)
  headers.set('origin', origin)
  headers.set('sec-fetch-site', 'cross-site')
  const answer = await fetch(request.url, { method: request.method, headers, body: await request.text() })
  assert.equal(answer.headers.get('access-control-allow-origin'), origin)
  statuses.push(answer.status)
  const readable = ['content-type', ...listed(answer, 'access-control-expose-headers')]
  const shown = new Headers([...answer.headers].filter(([name]) => readable.includes(name)))
  return new Response(answer.status === 304 ? null : await answer.text(), { status: answer.status, headers: shown })
}

const provider = (origin, statuses) =>
  new OFREPWebProvider({
    baseUrl: sidecar.admin,
    fetchImplementation: page(origin, statuses),
    cacheMode: 'disabled',
    pollInterval: 50,
  })

test('a page of a named origin evaluates flags, is told when nothing has changed, and sees a change', async () => {
  const statuses = []
  await OpenFeature.setContext({ targetingKey: 'thing:1' })
  await OpenFeature.setProviderAndWait(provider(ORIGIN, statuses))
  const client = OpenFeature.getClient()
  for (const flag of ['thing', '*']) {
    const { value, reason, flagMetadata } = client.getStringDetails(flag, 'nothing')
    assert.deepEqual([value, reason, flagMetadata.stage], ['redis', 'STATIC', 'off'])
  }
  assert.equal(client.getStringDetails('no such kind', 'nothing').errorCode, 'FLAG_NOT_FOUND')
  await waitUntil('the provider has been told twice that nothing changed', () => {
    return statuses.filter((status) => status === 304).length > 1
  })
  assert.equal(statuses.filter((status) => status === 200).length, 1, `${statuses}`)
  const changed = new Promise((resolve) => client.addHandler(ProviderEvents.ConfigurationChanged, resolve))
  await sidecar.flag({ stage: 'dualwrite' })
  await changed
  await waitUntil('the page sees the new stage', () => {
    return client.getStringDetails('thing', 'nothing').flagMetadata.stage === 'dualwrite'
  })
})

test('a page of any other origin learns nothing', async () => {
  await assert.rejects(OpenFeature.setProviderAndWait('stranger', provider('https://evil.example')))
  assert.equal(OpenFeature.getClient('stranger').getStringDetails('thing', 'nothing').value, 'nothing')
})

test('beside the evaluation a named origin is as strange as any other', async () => {
  for (const [method, path] of [['GET', '/v1/flags'], ['POST', '/v1/rollback'], ['OPTIONS', '/v1/flags']]) {
    const headers = { origin: ORIGIN, 'access-control-request-method': 'POST' }
    const answer = await fetch(`${sidecar.admin}${path}`, { method, headers })
    assert.equal(answer.status, 403, `${method} ${path}`)
    assert.equal(answer.headers.get('access-control-allow-origin'), null)
  }
})

// The console in a real browser: the whole path from dualwrite to live and back by clicking, as a person with a mouse, with a
// keyboard, with a screen reader (axe), with a phone, in light and in dark. PARALLAX_PICTURES=1 takes the README's pictures anew.

import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'

import { PATIENCE_MS, Sidecar } from '../support/sidecar.mjs'

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const OPERATOR = 'an-operators-token'
const VIEWER = 'a-viewers-token'
const PICTURES = fileURLToPath(new URL('../../../docs/pictures/', import.meta.url))
const CANDIDATES = [process.env.PARALLAX_CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
const program = CANDIDATES.find((path) => path && existsSync(path))

if (!program) {
  assert.ok(!process.env.CI, 'CI needs chromium: scripts/setup installs it')
  console.log('SKIPPED: chromium is not installed (Debian: apt install chromium; elsewhere PARALLAX_CHROMIUM names it)')
}

describe('the console', { skip: !program }, () => {
  let sidecar, browser, page
  const noise = []

  before(async () => {
    sidecar = await Sidecar.start({ PARALLAX_ADMIN_OPERATOR_TOKEN: OPERATOR, PARALLAX_ADMIN_VIEWER_TOKEN: VIEWER })
    // As root, which CI is, Chromium has no sandbox; it loads nothing but our own page.
    browser = await chromium.launch({ executablePath: program, args: ['--no-sandbox', '--disable-dev-shm-usage'] })
    page = await (await browser.newContext({ viewport: { width: 1180, height: 900 }, colorScheme: 'light' })).newPage()
    page.setDefaultTimeout(PATIENCE_MS)
    page.on('request', (request) => request.url().startsWith(sidecar.admin) || request.url().startsWith('data:') || noise.push(request.url()))
    page.on('pageerror', (error) => noise.push(String(error)))
    // A refusal is logged by the browser as a failed load; anything else (the policy, a mistake) is ours to mend.
    page.on('console', (line) => line.type() === 'error' && !line.text().startsWith('Failed to load resource') && noise.push(line.text()))
  })

  after(async () => {
    await browser?.close()
    await sidecar?.stop(['a mismatch was confirmed', 'reads were taken back', 'rollback'])
  })

  const row = (kind) => page.locator('#kinds tr', { has: page.getByRole('rowheader', { name: kind, exact: true }) })
  const stage = async (kind, wanted) => row(kind).getByText(wanted, { exact: true }).waitFor()
  const command = (...words) =>
    sidecar.fetch('/redis', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(words) })
  const write = async (number, value) => {
    const answer = await command('HSET', `thing:${number}`, 'name', value)
    assert.equal(answer.status, 200)
  }
  const readAll = async (count) => {
    for (let number = 0; number < count; number += 1) {
      await command('HGETALL', `thing:${number}`)
    }
  }
  const press = async (button, reason) => {
    await page.getByRole('button', { name: button, exact: true }).click()
    await page.getByLabel('Reason, for the audit').fill(reason)
    await page.locator('#sure').click()
  }
  const step = async (kind, wanted) => {
    await press(`Step up ${kind}`, `on to ${wanted}`)
    await page.locator('#ask').waitFor({ state: 'hidden' })
    await stage(kind, wanted)
  }
  const job = async (name, kind) => {
    await page.locator('#job').selectOption(name)
    await page.locator('#job-kind').selectOption(kind)
    await page.locator('#job-form').getByRole('button').click()
    await page.locator('#jobs').getByText(`${name} ${kind}: done`).first().waitFor()
  }
  /** Every rule of WCAG 2.2 A and AA that axe knows. */
  const accessible = async (what) => {
    await page.evaluate(AXE)
    const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']
    const { violations } = await page.evaluate((tags) => globalThis.axe.run(document, { runOnly: tags }), tags)
    const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`)
    assert.deepEqual(told, [], what)
  }
  const picture = async (name) => {
    if (!process.env.PARALLAX_PICTURES) return
    mkdirSync(PICTURES, { recursive: true })
    await page.screenshot({ path: `${PICTURES}${name}.png` })
  }

  test('nothing is shown before a token that the door knows, and the token outlives no reload', async () => {
    const answer = await fetch(`${sidecar.admin}/console`)
    assert.match(answer.headers.get('content-security-policy'), /default-src 'none'.*frame-ancestors 'none'/)
    await page.goto(`${sidecar.admin}/console`)
    await page.locator('#token').fill('nonsense')
    await page.getByRole('button', { name: 'Look' }).click()
    await page.getByText('This token is not known here.').waitFor()
    assert.equal(await page.locator('#board').isVisible(), false)
    await accessible('asking for a token')
    await page.locator('#token').fill(VIEWER)
    await page.getByRole('button', { name: 'Look' }).click()
    await stage('thing', 'off')
    await press('Step up thing', 'a viewer may not')
    await page.locator('#refusal').getByText('this token may not do that').waitFor()
    await page.getByRole('button', { name: 'Leave it' }).click()

    await page.reload()
    await page.locator('#token').waitFor()
    const kept = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie])
    assert.deepEqual(kept, [0, 0, ''])
    await page.locator('#token').fill(OPERATOR)
    await page.getByRole('button', { name: 'Look' }).click()
    await stage('thing', 'off')
  })

  test('the whole path from dualwrite to live by clicking, with what is missing in words', async () => {
    for (let number = 0; number < 20; number += 1) await write(number, 'before')
    await step('thing', 'dualwrite')
    await write(0, 'after')
    await step('thing', 'shadow')
    await press('Step up thing', 'too early')
    await page.locator('#refusal').getByText('These conditions are not met').waitFor()
    await page.locator('#refusal li').getByText('backfill').first().waitFor()
    await accessible('a refused step')
    await page.getByRole('button', { name: 'Leave it' }).click()

    await job('backfill', 'thing')
    await job('verify', 'thing')
    await step('thing', 'live, 1 %')
    await step('thing', 'live, 10 %')
    await readAll(20)
    await page.locator('#changes li').filter({ hasText: 'live, 1 % → live, 10 %' }).waitFor()
    await press('Step down thing', 'one back')
    await stage('thing', 'live, 1 %')
    await step('thing', 'live, 10 %')
    await step('thing', 'live, 50 %')
    await step('thing', 'live, 100 %')
    await readAll(20)
    await accessible('the board in light')
    await picture('console-light')
  })

  test('a rollback with the keyboard alone, which holds until somebody resumes', async () => {
    await page.getByRole('button', { name: 'Roll back thing', exact: true }).focus()
    await page.keyboard.press('Enter')
    await page.keyboard.type('enough for today')
    await page.keyboard.press('Enter')
    await stage('thing', 'shadow')
    await row('thing').getByText('latched by a rollback').waitFor()
    await page.getByText('Roll back: thing: done.').waitFor()
    await press('Resume thing', 'looked at')
    await page.getByRole('button', { name: 'Step up thing', exact: true }).waitFor()
    const source = await command('HGETALL', 'thing:1')
    assert.equal(source.headers.get('parallax-source'), 'redis')
    await press('Roll back everything', 'all of it')
    await page.getByText('Roll back everything: done.').waitFor()
  })

  test('on a phone and in the dark it is the same page', async () => {
    await page.emulateMedia({ colorScheme: 'dark' })
    await page.setViewportSize({ width: 390, height: 844 })
    await accessible('the board in the dark, on a phone')
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing is beyond the edge')
    await page.locator('#find').fill('thing')
    await stage('thing', 'shadow')
    await picture('console-dark-phone')
    await page.getByRole('button', { name: 'Roll back everything' }).click()
    await accessible('the question in the dark')
    await page.keyboard.press('Escape')
  })

  test('it has asked nobody else for anything, and nothing went wrong in it', () => {
    assert.deepEqual(noise, [])
  })
})

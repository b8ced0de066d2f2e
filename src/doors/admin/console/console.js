// The console: reads the admin door every few seconds, draws what it says, and asks it for changes. Everything that it shows is
// set as text, never as markup; the token lives in a variable of this page.

const EVERY_MS = 3000
const POINTS_MAX = 60
const CHANGES_MAX = 12
const HISTORIES_MAX = 12
/** Where a kind goes while it is live, in percent of its keys. */
const PERCENTS = [1, 10, 50, 100]
const STAGES = ['off', 'dualwrite', 'shadow', 'live']
/** Verdicts that are proven mismatches; what is in flight or was read again says nothing. */
const MISMATCHES = ['value', 'type', 'ttl', 'missing_in_postgres', 'missing_in_redis']

let token = ''
let version = 0
let asked = null
const points = new Map()
const $ = (id) => document.getElementById(id)

class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `status ${status}`)
    this.status = status
    this.unmet = (problem.unmet ?? problem.waiting ?? []).map((one) => one.detail ?? one)
  }
}

async function call(method, path, body, headers = {}) {
  if (token) headers.authorization = `Bearer ${token}`
  if (body) headers['content-type'] = 'application/json'
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: 'no-store' })
  if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})))
  return answer
}
const read = async (path) => (await call('GET', path)).json()

function element(name, properties = {}, ...children) {
  const { data, ...rest } = properties
  const made = Object.assign(document.createElement(name), rest)
  Object.assign(made.dataset, data)
  made.append(...children.filter((child) => child !== null))
  return made
}
const small = (text) => element('span', { className: 'small' }, text)
const cell = (label, ...children) => element('td', { role: 'cell', data: { label } }, ...children)

/** Puts the new children in place of the old ones, and the focus back where it was. */
function replace(parent, children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : null
  parent.replaceChildren(...children)
  if (focused) [...parent.querySelectorAll('[data-key]')].find((one) => one.dataset.key === focused)?.focus()
}

// What is read.

/** `name{label="value"} 1` lines, as [{name, labels, value}]. */
function series(text) {
  const lines = text.split('\n').filter((line) => line && !line.startsWith('#'))
  return lines.map((line) => {
    const at = line.lastIndexOf(' ')
    const [, name, labels = ''] = /^([^{]+)(?:\{(.*)\})?$/.exec(line.slice(0, at)) ?? []
    return { name, labels: Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map((one) => one.slice(1))), value: Number(line.slice(at + 1)) }
  })
}

/** The highest rate that so many mismatches among so many comparisons leave likely (Wilson, 95 % one-sided). */
function bound(mismatches, compared) {
  if (!compared) return null
  const z = 1.645
  const share = mismatches / compared
  const spread = z * Math.sqrt((share * (1 - share)) / compared + (z * z) / (4 * compared * compared))
  return Math.min(1, (share + (z * z) / (2 * compared) + spread) / (1 + (z * z) / compared))
}

function counted(all, kind) {
  const own = all.filter((one) => kind === '*' || one.labels.kind === kind)
  const sum = (name, isWanted = () => true) =>
    own.filter((one) => one.name === name && isWanted(one.labels)).reduce((total, one) => total + one.value, 0)
  const mismatches = sum('parallax_comparisons_total', ({ verdict }) => MISMATCHES.includes(verdict))
  return {
    mismatches,
    compared: mismatches + sum('parallax_comparisons_total', ({ verdict }) => verdict === 'match'),
    applied: sum('parallax_mirror_lag_seconds_count'),
    waited: sum('parallax_mirror_lag_seconds_sum'),
  }
}

function note(all, kind) {
  const line = points.get(kind) ?? []
  line.push(counted(all, kind))
  if (line.length > POINTS_MAX) line.shift()
  points.set(kind, line)
}

// What is shown.

const percent = (share) => `${(share * 100).toLocaleString('en', { maximumFractionDigits: share < 0.01 ? 3 : 1 })} %`
const when = (text) => (text ? new Date(text).toLocaleString() : '')
const duration = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`)
const stageOf = (flag) => (flag.stage === 'live' ? `live, ${flag.percent} %` : flag.stage)

function path(values, top, className) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', 'path')
  const step = 100 / Math.max(1, values.length - 1)
  made.setAttribute('d', values.map((value, at) => `${at ? 'L' : 'M'}${at * step},${29 - (value / top) * 26}`).join(''))
  made.setAttribute('class', className)
  return made
}

function mismatchCell(kind) {
  const line = points.get(kind) ?? []
  const { mismatches = 0, compared = 0 } = line.at(-1) ?? {}
  if (!compared) return cell('Mismatches', small('nothing compared'))
  const rates = line.map((one) => (one.compared ? one.mismatches / one.compared : 0))
  const bounds = line.map((one) => bound(one.mismatches, one.compared) ?? 0)
  const top = Math.max(...bounds, 1e-9)
  const picture = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  picture.setAttribute('class', 'spark')
  picture.setAttribute('viewBox', '0 0 100 30')
  picture.setAttribute('preserveAspectRatio', 'none')
  picture.setAttribute('aria-hidden', 'true')
  picture.append(path(bounds, top, 'bound'), path(rates, top, 'rate'))
  const told = element('span', { className: mismatches ? 'bad' : 'good' }, `${mismatches} of ${compared}`)
  return cell('Mismatches', told, picture, small(`at most ${percent(bound(mismatches, compared))} (95 %)`))
}

function lagCell(kind) {
  const line = points.get(kind) ?? []
  const [first, last] = [line.at(0), line.at(-1)]
  const isMoving = last && first && last.applied > first.applied
  const [applied, waited] = isMoving ? [last.applied - first.applied, last.waited - first.waited] : [last?.applied, last?.waited]
  return cell('Lag', applied ? duration(waited / applied) : '', small(applied ? (isMoving ? 'mean, lately' : 'mean, since start') : 'nothing mirrored'))
}

/** The flag one step further, or null at the end. */
function stepUp(flag) {
  if (flag.latched) return { resume: true }
  if (flag.stage === 'live') {
    const next = PERCENTS.find((step) => step > flag.percent)
    return next ? { percent: next } : null
  }
  const stage = STAGES[STAGES.indexOf(flag.stage) + 1]
  return stage === 'live' ? { stage, percent: PERCENTS[0] } : { stage }
}

/** The flag one step back, or null at the beginning. */
function stepDown(flag) {
  if (flag.stage === 'live') {
    const before = PERCENTS.filter((step) => step < flag.percent).at(-1)
    return before ? { percent: before } : { stage: 'shadow' }
  }
  return flag.stage === 'off' ? null : { stage: STAGES[STAGES.indexOf(flag.stage) - 1] }
}

function described(kind, change, flag) {
  const name = kind === '*' ? 'All kinds without a flag of their own' : kind
  if (change.resume) return `${name}: end the latch of the rollback; it stays in ${stageOf(flag)}.`
  return `${name}: from ${stageOf(flag)} to ${stageOf({ ...flag, ...change })}.`
}

function actions({ kind, flag }) {
  const name = kind === '*' ? 'all kinds' : kind
  const step = (word, change, key) =>
    element('button', {
      type: 'button', disabled: !change, ariaLabel: `${word} ${name}`, data: { key: `${key} ${kind}` },
      onclick: () => ask({ title: `${word}: ${name}`, text: described(kind, change, flag), sure: word, run: (reason) => changeFlag(kind, { ...change, reason }) }),
    }, word)
  const back = element('button', {
    type: 'button', className: 'danger', ariaLabel: `Roll back ${name}`, data: { key: `back ${kind}` }, onclick: () => askRollback(kind),
  }, 'Roll back')
  const up = flag.latched ? 'Resume' : 'Step up'
  return cell('Do', element('div', { className: 'row' }, step(up, stepUp(flag), 'up'), step('Step down', stepDown(flag), 'down'), back))
}

function kindRow(entry) {
  const { kind, flag } = entry
  const marks = [entry.own === false ? 'as all kinds' : null, flag.latched ? 'latched by a rollback' : null, entry.backfilled ? 'backfilled' : null]
  const head = element('th', { scope: 'row', role: 'rowheader' }, kind === '*' ? 'all kinds (*)' : kind)
  const stage = cell('Stage', element('span', {}, stageOf(flag)), small(marks.filter(Boolean).join(', ')))
  return element('tr', { role: 'row', title: entry.meaning ?? '' }, head, stage, mismatchCell(kind), lagCell(kind), actions(entry))
}

function jobCard(job) {
  const share = job.total ? Math.min(1, job.seen / job.total) : null
  const bar = element('progress', { max: 1, ariaLabel: `Progress of ${job.job} ${job.kinds.join(', ')}` })
  if (share !== null || job.state === 'done') bar.value = job.state === 'done' ? 1 : share
  const words = [job.total ? `${job.seen} of about ${job.total} keys seen` : `${job.seen} keys seen`, `${job.done} done`, job.eta_seconds ? `about ${job.eta_seconds} s left` : null, job.waiting, job.error]
  const isOpen = job.state === 'running' || job.state === 'paused'
  const wish = (word, path) =>
    element('button', { type: 'button', ariaLabel: `${word} ${job.job} ${job.id}`, data: { key: `${path} ${job.id}` }, onclick: () => act(`${word}: asked`, () => call('POST', `/v1/jobs/${encodeURIComponent(job.id)}/${path}`)) }, word)
  const buttons = isOpen ? element('div', { className: 'row' }, job.state === 'paused' ? wish('Resume', 'resume') : wish('Pause', 'pause'), wish('Cancel', 'cancel')) : null
  return element('li', {}, element('strong', {}, `${job.job} ${job.kinds.join(', ')}: ${job.state}`), isOpen ? bar : null, small(` ${words.filter(Boolean).join(', ')}`), buttons)
}

function changeCard(change) {
  const stage = (flag) => (flag ? stageOf(flag) : 'as all kinds')
  const title = `${change.kind === '*' ? 'all kinds' : change.kind}: ${stage(change.before)} → ${stage(change.after)}`
  return element('li', {}, element('strong', {}, title), small(` ${when(change.at)} · ${change.who} · ${change.reason ?? 'no reason'}`))
}

function mismatchCard(one) {
  const fields = one.fields?.length ? ` · ${one.fields.length} fields differ` : ''
  return element('li', {}, element('strong', {}, `${one.kind}: ${one.class}`), small(` ${when(one.at)} · ${one.key_hash}${fields}`))
}

const none = (text) => [element('li', { className: 'small' }, text)]

function drawMirror(status, all) {
  const value = (name) => all.find((one) => one.name === name)?.value ?? 0
  const facts = [
    ['Waiting for Postgres', `${status.outbox.depth ?? 'unknown'} records`],
    ['Oldest of them', duration(value('parallax_outbox_oldest_seconds'))],
    ['Dead letters', status.postgres?.dead_letters ?? 'Postgres does not say'],
    ['Sidecars', String(status.fleet.length)],
    ['Lease on the flags', status.lease_valid ? 'valid' : 'none: reads come from Redis'],
  ]
  replace($('mirror'), facts.map(([name, text]) => element('div', {}, element('dt', {}, name), element('dd', {}, String(text)))))
  $('sidecar').textContent = `${status.instance} · version ${status.version} · flags ${status.flags_version}`
}

function drawKinds(flags) {
  version = flags.version
  const wanted = $('find').value.trim().toLowerCase()
  const rows = [{ kind: '*', flag: flags.default }, ...flags.kinds]
  replace($('kinds'), rows.filter(({ kind }) => kind === '*' || kind.toLowerCase().includes(wanted)).map(kindRow))
  if ($('job-kind').options.length !== rows.length) {
    $('job-kind').replaceChildren(...rows.map(({ kind }) => element('option', { value: kind }, kind === '*' ? 'all kinds' : kind)))
  }
}

async function changesOf(flags) {
  const own = ['*', ...flags.kinds.filter((entry) => entry.own).map((entry) => entry.kind)].slice(0, HISTORIES_MAX)
  const histories = await Promise.all(own.map((kind) => read(`/v1/flags/${encodeURIComponent(kind)}/history`)))
  const all = new Map(histories.flatMap(({ changes }) => changes).map((change) => [`${change.version} ${change.kind}`, change]))
  return [...all.values()].sort((one, other) => other.version - one.version).slice(0, CHANGES_MAX)
}

/** Reads everything once. What Postgres alone knows may be missing while it is away. */
async function look() {
  const [flags, status, metrics] = await Promise.all([read('/v1/flags'), read('/v1/status'), call('GET', '/metrics').then((answer) => answer.text())])
  const all = series(metrics)
  for (const kind of ['*', ...flags.kinds.map((entry) => entry.kind)]) note(all, kind)
  drawMirror(status, all)
  drawKinds(flags)
  const [jobs, mismatches, changes] = await Promise.allSettled([read('/v1/jobs'), read('/v1/mismatches?limit=10'), changesOf(flags)])
  const list = (id, settled, make, empty) =>
    replace($(id), settled.status === 'rejected' ? none('Postgres does not say.') : settled.value.length ? settled.value.map(make) : none(empty))
  const of = (settled, name) => (settled.status === 'fulfilled' ? { status: 'fulfilled', value: settled.value[name] } : settled)
  list('jobs', of(jobs, 'jobs'), jobCard, 'No job yet.')
  list('mismatches', of(mismatches, 'mismatches'), mismatchCard, 'None.')
  list('changes', changes, changeCard, 'None yet.')
  $('sign-in').hidden = true
  $('board').hidden = $('rollback-all').hidden = false
}

function tell(text) {
  if ($('news').textContent !== text) $('news').textContent = text
}

async function refresh() {
  try {
    await look()
    if ($('news').dataset.failed) tell('')
    delete $('news').dataset.failed
  } catch (error) {
    $('news').dataset.failed = 'yes'
    if (error.status === 401) {
      tell(token ? 'This token is not known here.' : '')
      token = ''
      $('board').hidden = $('rollback-all').hidden = true
      $('sign-in').hidden = false
      return
    }
    tell(`The admin door cannot be read: ${error.message}`)
  }
}

// What is done.

async function act(done, work) {
  try {
    await work()
    tell(done)
  } catch (error) {
    tell(error.message)
  }
  await refresh()
}

const changeFlag = (kind, change) => call('PATCH', `/v1/flags/${encodeURIComponent(kind)}`, change, { 'if-match': `"${version}"` })

function askRollback(kind) {
  const all = kind === '*'
  ask({
    title: all ? 'Roll back everything' : `Roll back: ${kind}`, isDanger: true, sure: 'Roll back',
    text: `Reads of ${all ? 'every kind' : kind} go back to Redis at once, in every sidecar, and stay there until somebody resumes. Writes go on reaching both stores.`,
    run: (reason) => call('POST', '/v1/rollback', { scope: kind, reason }),
  })
}

function ask(question) {
  asked = question
  $('ask-title').textContent = question.title
  $('ask-text').textContent = question.text
  $('sure').textContent = question.sure
  $('sure').className = question.isDanger ? 'danger' : ''
  $('refusal').replaceChildren()
  $('reason').value = ''
  $('ask').showModal()
  $('reason').focus()
}

$('ask-form').addEventListener('submit', async (event) => {
  event.preventDefault()
  $('sure').disabled = true
  try {
    await asked.run($('reason').value)
    $('ask').close()
    tell(`${asked.title}: done.`)
    await refresh()
  } catch (error) {
    const unmet = error.unmet ?? []
    const list = element('ul', {}, ...unmet.map((text) => element('li', {}, text)))
    $('refusal').replaceChildren(element('p', {}, unmet.length ? 'Not yet. These conditions are not met:' : error.message), list)
    await refresh()
  } finally {
    $('sure').disabled = false
  }
})
$('leave').addEventListener('click', () => $('ask').close())
$('rollback-all').addEventListener('click', () => askRollback('*'))
$('find').addEventListener('input', refresh)
$('token-form').addEventListener('submit', (event) => {
  event.preventDefault()
  token = $('token').value
  $('token').value = ''
  refresh()
})
$('job-form').addEventListener('submit', (event) => {
  event.preventDefault()
  const [job, kind] = [$('job').value, $('job-kind').value]
  act(`${job} of ${kind === '*' ? 'all kinds' : kind}: started.`, () => call('POST', '/v1/jobs', { job, kinds: [kind] }))
})

refresh()
setInterval(() => document.hidden || !$('sign-in').hidden || refresh(), EVERY_MS)

const $ = selector => document.querySelector(selector)
const sum = counts => Object.values(counts).reduce((a, b) => a + b, 0)
const perSecond = of => s => of(s) / s.seconds

const grid = $('#grid')
const charts = [
  {
    title: 'Connections', least: 4, format: count, tick: shortCount,
    series: [{ name: 'open', of: s => s.connections }, { name: 'peers', of: s => s.peers }],
    remark: s => s.maxConnections ? `at most ${count(s.maxConnections)}` : '',
  },
  { title: 'Rooms', least: 4, format: count, tick: shortCount, series: [{ name: 'with a peer', of: s => s.rooms }] },
  {
    title: 'Messages a second', least: 1, format: rate, tick: shortCount,
    series: [{ name: 'delivered', of: perSecond(s => s.delivered) }, { name: 'received', of: perSecond(s => s.received) }],
  },
  {
    title: 'Bytes a second', least: 64, base: 1024, format: v => `${bytes(v)}/s`, tick: v => short(bytes(v)),
    series: [{ name: 'delivered', of: perSecond(s => s.deliveredBytes) }, { name: 'received', of: perSecond(s => s.receivedBytes) }],
  },
  {
    title: 'Memory', least: 1 << 20, base: 1024, format: bytes, tick: v => short(bytes(v)),
    series: [{ name: 'process', of: s => s.residentBytes || null }, { name: 'held for peers', of: s => s.heldBytes }],
    remark: s => s.budgetBytes ? `${percent(s.residentBytes / s.budgetBytes)} of the budget, ${short(bytes(s.budgetBytes))}` : 'no budget',
  },
  {
    title: 'From publish to write', least: 1e-4, format: duration, tick: v => v === 0 ? '0' : short(duration(v)),
    series: [{ name: '99th percentile', of: s => s.p99 }, { name: 'median', of: s => s.p50 }],
  },
  {
    title: 'Comings and goings a second', least: 1, format: rate, tick: shortCount,
    series: [
      { name: 'accepted', of: perSecond(s => s.accepted) }, { name: 'closed', of: perSecond(s => sum(s.closed)) },
      { name: 'refused', of: perSecond(s => sum(s.refused)) },
    ],
  },
].map(options => new Chart(grid, options, at => charts.forEach(c => c.point(at))))
grid.append(...grid.querySelectorAll('.reasons')) // after the charts

function percent(share) { return share < 0.0995 ? `${(100 * share).toFixed(1)}%` : `${Math.round(100 * share)}%` }

function age(ms) {
  const m = Math.floor(ms / 60_000), h = Math.floor(m / 60), d = Math.floor(h / 24)
  return d > 0 ? `${d} d ${h % 24} h` : h > 0 ? `${h} h ${m % 60} min` : m > 0 ? `${m} min` : 'less than a minute'
}

// What is known so far: samples of this process and of those before on this address, as long as they are shown.
let process = '', samples = [], restarts = [], answered = null, timer = 0, asking = false

// take adds what the process has answered.
function take(reply) {
  const another = process !== '' && reply.process !== process
  if (another) restarts.push(reply.began)
  process = reply.process
  const tooLong = 2.5 * reply.step
  let before = samples.at(-1)
  reply.samples.forEach((s, i) => {
    s.process = process
    s.gap = !before || another && i === 0 || s.seconds > tooLong || s.at - before.at > 1000 * tooLong
    samples.push(s)
    before = s
  })
  samples = samples.filter(s => s.at > reply.now - span).slice(-reply.kept)
  restarts = restarts.filter(at => at > reply.now - span)
}

function show(reply) {
  if (reply.unready.length > 0) showState('unready', `Not ready: ${reply.unready.join(', ')}`)
  else showState('ready', 'Ready')
  $('#about').textContent = `${reply.version}, up for ${age(reply.now - reply.began)}`
  charts.forEach(c => c.show(samples, reply.now, restarts))
  showReasons($('#closed'), 'closed', reply.totals.closed)
  showReasons($('#refused'), 'refused', reply.totals.refused)
  showTotals(reply.totals)
  document.title = `${count(samples.at(-1)?.connections ?? 0)} connections, relaygate`
}

// showReasons lists the reasons that have occurred, the most frequent of the last minutes first.
function showReasons(box, field, totals) {
  const recent = reason => samples.reduce((n, s) => n + (s[field][reason] ?? 0), 0)
  const rows = Object.entries(totals ?? {}).filter(([, n]) => n > 0).map(([reason, n]) => [reason, recent(reason), n])
  rows.sort((a, b) => b[1] - a[1] || b[2] - a[2] || (a[0] < b[0] ? -1 : 1))
  if (rows.length === 0) return box.replaceChildren(html('p', 'none', null, 'None since the start.'))
  const table = html('table', '')
  const head = html('tr', '', html('thead', '', table))
  for (const title of ['reason', '15 minutes', 'since the start']) html('th', '', head, title).scope = 'col'
  const body = html('tbody', '', table)
  for (const [reason, some, all] of rows) {
    const row = html('tr', '', body)
    for (const text of [reason, count(some), count(all)]) html('td', '', row, text)
  }
  box.replaceChildren(table)
}

function showTotals(totals) {
  const lines = [
    ['connections accepted', count(totals.accepted)], ['became peers', count(totals.upgraded)],
    ['messages received', count(totals.received)], ['messages delivered', count(totals.delivered)],
    ['bytes received', bytes(totals.receivedBytes)], ['bytes delivered', bytes(totals.deliveredBytes)],
  ]
  $('#totals').replaceChildren(...lines.map(([name, value]) => {
    const line = html('div', '')
    html('dt', '', line, name)
    html('dd', '', line, value)
    return line
  }))
}

function showState(is, text) {
  const state = $('#state')
  state.dataset.is = is
  if (state.textContent !== text) state.textContent = text // a screen reader says it once
}

// ask returns the process's answer: what is new since the last sample. It returns null if there is none.
async function ask() {
  const query = new URLSearchParams({ process, since: samples.findLast(s => s.process === process)?.number ?? 0 })
  try {
    const response = await fetch(`history.json?${query}`, { cache: 'no-store', signal: AbortSignal.timeout(10_000) })
    return response.ok ? await response.json() : null
  } catch {
    return null
  }
}

// poll asks now, and again soon after the next sample is due.
async function poll() {
  if (asking) return
  asking = true
  clearTimeout(timer)
  const reply = await ask()
  asking = false
  let pause = 5000
  if (reply) {
    take(reply)
    show(reply)
    answered = Date.now()
    const step = 1000 * reply.step, next = (samples.at(-1)?.at ?? reply.now) + step - reply.now
    pause = Math.min(Math.max(next, 0) + step / 20, step)
  } else {
    showState('lost', answered ? `No answer since ${clock.format(answered)}` : 'No answer')
  }
  if (!document.hidden) timer = setTimeout(poll, pause)
}

document.addEventListener('visibilitychange', () => { if (!document.hidden) poll() })
poll()

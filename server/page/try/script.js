// random returns letters and digits that are hard to mistake for one another.
function random(length) {
  const letters = 'abcdefghjkmnpqrstuvwxyz23456789'
  return Array.from(crypto.getRandomValues(new Uint32Array(length)), n => letters[n % letters.length]).join('')
}

const relayId = $('#relayId'), secret = $('#secret')
let needsSecret = false

function addPeer(name, peerId) {
  const section = $('#peer').content.firstElementChild.cloneNode(true)
  $('#peers').append(section)
  return new Peer(section, name, peerId, () => ({ relayId: relayId.value, secret: needsSecret ? secret.value : '', needsSecret }))
}

const peers = [addPeer('Peer one', `ann-${random(3)}`), addPeer('Peer two', `ben-${random(3)}`)]

// What a peer says to one peer goes to the other, until another target is entered.
peers.forEach((peer, i) => {
  const other = peers[1 - i]
  let aimed = other.peerId
  peer.aim(aimed)
  other.field('peerId').addEventListener('input', () => {
    if (peer.field('target').value === aimed) peer.aim(other.peerId)
    aimed = other.peerId
  })
})

// showLink shows the address of this relay, and keeps it in the address bar.
function showLink() {
  const link = `${location.origin}/?${new URLSearchParams({ relayId: relayId.value })}`
  $('#link').href = link
  $('#link').textContent = link
  history.replaceState(null, '', link)
  drawQR(link)
}

const isLocal = ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname)
$('#local').hidden = !isLocal
$('#local').textContent = `A phone cannot reach ${location.hostname}: open this page by the machine’s own address first.`

function drawQR(text) {
  const code = isLocal ? null : qr(text)
  $('#qr').toggleAttribute('hidden', !code)
  if (!code) return
  const quiet = 4, path = document.createElementNS('http://www.w3.org/2000/svg', 'path')
  path.setAttribute('d', code.flatMap((row, y) => row.map((dark, x) => dark ? `M${x + quiet} ${y + quiet}h1v1h-1z` : '')).join(''))
  $('#qr').setAttribute('viewBox', `0 0 ${code.length + 2 * quiet} ${code.length + 2 * quiet}`)
  $('#qr').setAttribute('shape-rendering', 'crispEdges')
  $('#qr').replaceChildren(path)
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText($('#link').href) // there is none on a page without TLS
  } catch {
    getSelection().selectAllChildren($('#link'))
    if (!document.execCommand('copy')) return
  }
  $('#copy').textContent = 'Copied'
  setTimeout(() => { $('#copy').textContent = 'Copy link' }, 1500)
}

// ask shows what the relay says of itself.
async function ask() {
  const about = $('#about')
  try {
    const { version, isPublic } = await (await fetch('/v1', { cache: 'no-store' })).json()
    const ready = (await fetch('/readyz', { cache: 'no-store' })).ok
    needsSecret = !isPublic
    $('#secretField').hidden = isPublic
    about.textContent = `${version}, ${isPublic ? 'open to everyone' : 'needs a secret'}, ${ready ? 'ready' : 'not ready'}`
    about.dataset.mood = ready ? '' : 'bad'
  } catch {
    about.textContent = 'The relay does not answer.'
    about.dataset.mood = 'bad'
  }
}

relayId.value = new URLSearchParams(location.search).get('relayId') || `${random(4)}-${random(4)}`
relayId.addEventListener('input', showLink)
$('#random').addEventListener('click', () => {
  relayId.value = `${random(4)}-${random(4)}`
  showLink()
})
$('.fields').addEventListener('submit', e => {
  e.preventDefault()
  peers.filter(p => p.idle).forEach(p => p.connect())
})
$('#copy').addEventListener('click', copyLink)
showLink()
ask()

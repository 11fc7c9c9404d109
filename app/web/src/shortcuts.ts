/** Keyboard shortcuts of the whole page. */

import { useEffect, useRef } from 'react'

interface Shortcuts {
  search: () => void
  fresh: () => void
  stop: () => void
  help: () => void
}

/** Whether a dialog, a drawer or a menu is open: then keys are for it alone. */
const isCovered = () =>
  [...document.querySelectorAll('[role=dialog], [role=menu], [role=listbox]')].some((element) => element.getClientRects().length > 0)
const isTyping = (target: EventTarget | null) => target instanceof Element && target.matches('input, textarea, select')

export function useShortcuts(shortcuts: Shortcuts): void {
  const latest = useRef(shortcuts)
  latest.current = shortcuts
  useEffect(() => {
    let covered = false
    const look = () => {
      covered = isCovered() // before the same key closes it
    }
    const listen = (event: KeyboardEvent) => {
      const act = actionOf(event)
      if (!act || covered) return
      if (act !== 'stop') event.preventDefault()
      latest.current[act]()
    }
    window.addEventListener('keydown', look, true)
    window.addEventListener('keydown', listen)
    return () => {
      window.removeEventListener('keydown', look, true)
      window.removeEventListener('keydown', listen)
    }
  }, [])
}

function actionOf(event: KeyboardEvent): keyof Shortcuts | null {
  if (event.isComposing || event.altKey) return null
  const key = event.key.toLowerCase()
  if (event.ctrlKey || event.metaKey) {
    if (key === 'k' && !event.shiftKey) return 'search'
    return key === 'o' && event.shiftKey ? 'fresh' : null
  }
  if (key === 'escape') return 'stop'
  return (key === '?' || key === '？') && !isTyping(event.target) ? 'help' : null
}

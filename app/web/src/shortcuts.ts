/** Keyboard shortcuts of the whole page. */

import { useEffect, useRef } from 'react'

interface Shortcuts {
  search: () => void
  fresh: () => void
  stop: () => void
  help: () => void
}

const inDialog = (target: EventTarget | null) => target instanceof Element && !!target.closest('[role=dialog], [role=menu]')
const isTyping = (target: EventTarget | null) => target instanceof Element && target.matches('input, textarea, select')

export function useShortcuts(shortcuts: Shortcuts): void {
  const latest = useRef(shortcuts)
  latest.current = shortcuts
  useEffect(() => {
    const listen = (event: KeyboardEvent) => {
      const act = actionOf(event)
      if (!act) return
      if (act !== 'stop') event.preventDefault()
      latest.current[act]()
    }
    window.addEventListener('keydown', listen)
    return () => window.removeEventListener('keydown', listen)
  }, [])
}

function actionOf(event: KeyboardEvent): keyof Shortcuts | null {
  if (event.isComposing || event.altKey || inDialog(event.target)) return null
  const key = event.key.toLowerCase()
  if (event.ctrlKey || event.metaKey) {
    if (key === 'k' && !event.shiftKey) return 'search'
    return key === 'o' && event.shiftKey ? 'fresh' : null
  }
  if (key === 'escape') return 'stop'
  return (key === '?' || key === '？') && !isTyping(event.target) ? 'help' : null
}

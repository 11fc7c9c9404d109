/** A conversation stays at its end while it grows, unless its reader has scrolled up. */

import { useEffect, useLayoutEffect, useRef, useState } from 'react'

const NEAR_PIXELS = 80

/** `asked` is the answer that is being made, if any: its question is brought into view. */
export function useStickToEnd(conversation: string, asked: string | undefined) {
  const box = useRef<HTMLDivElement>(null)
  const content = useRef<HTMLDivElement>(null)
  const sticks = useRef(true)
  const [atEnd, setAtEnd] = useState(true)

  const toEnd = () => {
    sticks.current = true
    box.current!.scrollTop = box.current!.scrollHeight
  }

  useLayoutEffect(toEnd, [conversation])
  useLayoutEffect(() => {
    if (asked) toEnd()
  }, [asked])

  useEffect(() => {
    const { current: scroller } = box
    const look = () => {
      sticks.current = scroller!.scrollHeight - scroller!.scrollTop - scroller!.clientHeight < NEAR_PIXELS
      setAtEnd(sticks.current)
    }
    const grown = new ResizeObserver(() => (sticks.current ? toEnd() : look()))
    scroller!.addEventListener('scroll', look, { passive: true })
    grown.observe(content.current!)
    grown.observe(scroller!)
    return () => {
      scroller!.removeEventListener('scroll', look)
      grown.disconnect()
    }
  }, [])

  return { box, content, atEnd, toEnd }
}

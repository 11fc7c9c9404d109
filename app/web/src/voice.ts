/** Voice input by the browser, where it has any; it sends the voice to its maker's service. */

import { useEffect, useRef, useState } from 'react'

interface Heard {
  resultIndex: number
  results: ArrayLike<ArrayLike<{ transcript: string }> & { isFinal: boolean }>
}

interface Recognition {
  lang: string
  continuous: boolean
  interimResults: boolean
  onresult: ((event: Heard) => void) | null
  onend: () => void
  start: () => void
  stop: () => void
}

const { SpeechRecognition, webkitSpeechRecognition } = window as unknown as Record<string, (new () => Recognition) | undefined>
const Recognizer = SpeechRecognition ?? webkitSpeechRecognition

export const hasVoice = !!Recognizer

export function useVoice(onText: (text: string) => void): { listening: boolean; toggle: () => void } {
  const [listening, setListening] = useState(false)
  const active = useRef<Recognition>(null)
  const latest = useRef(onText)
  latest.current = onText

  useEffect(
    () => () => {
      if (!active.current) return
      active.current.onresult = null // another conversation is open by now
      active.current.stop()
    },
    [],
  )

  function toggle() {
    if (active.current) return active.current.stop()
    const recognition = new Recognizer!()
    recognition.lang = 'zh-CN'
    recognition.continuous = true
    recognition.interimResults = false
    recognition.onresult = (event) => latest.current(saidIn(event))
    recognition.onend = () => {
      active.current = null
      setListening(false)
    }
    active.current = recognition
    setListening(true)
    recognition.start()
  }

  return { listening, toggle }
}

/** Return what was recognized for good since the last event. */
function saidIn({ resultIndex, results }: Heard): string {
  const fresh = Array.from(results).slice(resultIndex)
  return fresh.map((result) => (result.isFinal ? result[0]!.transcript : '')).join('')
}

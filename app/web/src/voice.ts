/** Voice input by the browser, where it has any; it sends the voice to its maker's service. */

import { useRef, useState } from 'react'

interface Recognition {
  lang: string
  continuous: boolean
  interimResults: boolean
  onresult: (event: { resultIndex: number; results: ArrayLike<ArrayLike<{ transcript: string }>> }) => void
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

  function toggle() {
    if (active.current) return active.current.stop()
    const recognition = new Recognizer!()
    recognition.lang = 'zh-CN'
    recognition.continuous = true
    recognition.interimResults = false
    recognition.onresult = ({ resultIndex, results }) => onText(results[resultIndex]?.[0]?.transcript ?? '')
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
